from types import SimpleNamespace

import pytest

from detaux_pl.training.progress import StageProgress


def trainer(**settings):
    start = {"max_epochs": -1, "max_steps": -1, "current_epoch": 0, "global_step": 0}
    return SimpleNamespace(**{**start, "callback_metrics": {}, **settings})


@pytest.mark.parametrize(
    ("limits", "total", "done"),
    [
        ({"max_epochs": 8}, 8, 4),
        # As Lightning does, epochs count where both are limited.
        ({"max_epochs": 8, "max_steps": 900}, 8, 4),
        ({"max_steps": 900}, 900, 341),
        ({}, None, 4),
    ],
)
def test_the_bar_counts_what_ends_the_training(limits, total, done):
    bar = StageProgress("disentangle")
    bar._enabled = True
    bar.on_train_start(trainer(**limits, current_epoch=3, global_step=300), None)
    (task,) = bar._progress.tasks
    assert task.total == total
    assert task.completed == (300 if total == 900 else 3)
    bar.on_train_batch_end(trainer(**limits, current_epoch=3, global_step=341))
    bar.on_train_epoch_end(trainer(**limits, current_epoch=3, global_step=341), None)
    assert task.completed == done
    bar.on_train_end()
    assert bar._progress is None
