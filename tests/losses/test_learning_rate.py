import math

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR

from detaux_pl.losses.learning_rate import schedule_learning_rate

STEPS = 10


def build_optimizer():
    groups = [{"params": [torch.zeros(1, requires_grad=True)], "lr": lr} for lr in (0.5, 2.0)]
    return torch.optim.SGD(groups)


def rates(schedule, warmup, steps=STEPS):
    """Rates of both groups in every step and after the last, as shares of the full rate."""
    optimizer = build_optimizer()
    configured = schedule_learning_rate(optimizer, schedule, lambda: steps, warmup)
    assert configured["optimizer"] is optimizer
    assert configured["lr_scheduler"]["interval"] == "step"
    table = []
    for _ in range(steps + 1):
        small, large = (group["lr"] for group in optimizer.param_groups)
        assert large == pytest.approx(4 * small)
        table.append(2 * small)
        optimizer.step()
        configured["lr_scheduler"]["scheduler"].step()
    return table


@pytest.mark.parametrize(
    ("schedule", "warmup", "expected"),
    [
        ("constant", 0.3, [1 / 3, 2 / 3] + [1] * 9),
        ("constant", 0.45, [0.25, 0.5, 0.75] + [1] * 8),
        ("constant", 0.09, [1] * 11),
        ("cosine", 0.2, [0.5, 1] + [(1 + math.cos(math.pi * s / 8)) / 2 for s in range(9)]),
        ("cosine", 0.09, [(1 + math.cos(math.pi * s / 10)) / 2 for s in range(11)]),
        ("cosine", 0.99, [s / 9 for s in range(1, 10)] + [1, 0]),
    ],
)
def test_rate_rises_and_then_follows_the_schedule(schedule, warmup, expected):
    assert rates(schedule, warmup) == pytest.approx(expected, abs=1e-12)


def test_without_warmup_nothing_changes():
    optimizer = build_optimizer()
    assert schedule_learning_rate(optimizer, "constant", lambda: math.inf) is optimizer
    reference = CosineAnnealingLR(optimizer, T_max=STEPS)
    expected = []
    for _ in range(STEPS + 1):
        expected.append(2 * optimizer.param_groups[0]["lr"])
        optimizer.step()
        reference.step()
    assert rates("cosine", 0.0) == expected


@pytest.mark.parametrize("steps", [0, math.inf])
@pytest.mark.parametrize(
    ("schedule", "warmup", "given"),
    [
        ("cosine", 0.0, "lr_schedule is cosine"),
        ("cosine", 0.1, "lr_schedule is cosine"),
        ("constant", 0.1, "warmup is 0.1"),
    ],
)
def test_training_without_a_length_is_refused(schedule, warmup, given, steps):
    with pytest.raises(ValueError, match=f"^{given}: give the trainer max_epochs or max_steps"):
        schedule_learning_rate(build_optimizer(), schedule, lambda: steps, warmup)


def test_resumed_schedule_goes_on():
    def build():
        optimizer = build_optimizer()
        configured = schedule_learning_rate(optimizer, "cosine", lambda: STEPS, 0.3)
        return optimizer, configured["lr_scheduler"]["scheduler"]

    optimizer, scheduler = build()
    for _ in range(5):
        optimizer.step()
        scheduler.step()
    resumed, again = build()
    resumed.load_state_dict(optimizer.state_dict())
    again.load_state_dict(scheduler.state_dict())
    for _ in range(3):
        for one, other in ((optimizer, scheduler), (resumed, again)):
            one.step()
            other.step()
        assert resumed.param_groups[1]["lr"] == optimizer.param_groups[1]["lr"]
