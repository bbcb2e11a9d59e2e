"""Numbers about artifacts: probes, scores of disentanglement, tests over seeds; a finished run."""
