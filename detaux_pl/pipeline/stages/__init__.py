"""The stages of the chain, one a file; `pipeline/stage.py` has their order."""
