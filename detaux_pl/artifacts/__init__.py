"""The ground floor: codes, labels, stage manifests, the run folder."""
