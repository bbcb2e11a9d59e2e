"""What Lightning says of every run, and nobody can act on."""

from __future__ import annotations

import logging
import warnings


def quiet() -> None:
    """Keep what Lightning says of every run, and nobody can act on, off the terminal."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",  # data in memory need none
        ".*smaller than the logging interval.*",  # epochs are what is logged
        ".*Checkpoint directory .* exists and is not empty.*",  # a resumed stage
        ".*treespec, LeafSpec.*",  # Lightning 2.6 on torch 2.15
        ".*infer the batch indices fetched.*",  # our batches carry their own
        ".*callbacks used to create the checkpoint.*",  # only fit writes checkpoints
        ".*could not find the monitored key.*",  # before the first validation; after it, an error
        ".*in eval mode at the start of training.*",  # frozen networks are meant to be
        ".*The dirpath has changed.*",  # the trainer of predict has another one
    ):
        warnings.filterwarnings("ignore", message=message)
