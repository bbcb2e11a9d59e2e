import pytest

from detaux_pl.losses.schedule import (
    exponential_ramp,
    linear_capacity,
    past_warm_up,
    product_manifold_betas,
)


@pytest.mark.parametrize(
    ("max_epochs", "first_active", "first_consistent", "full", "consistency_full"),
    [(40, 11, 13, 16, 20), (400, 101, 127, 160, 200)],
)
def test_table_of_the_method(max_epochs, first_active, first_consistent, full, consistency_full):
    betas = [product_manifold_betas(epoch, max_epochs) for epoch in range(max_epochs)]

    def first(condition):
        return next(epoch for epoch, beta in enumerate(betas) if condition(beta))

    assert all(beta == (0, 0, 0) for beta in betas[:first_active])
    assert first(lambda beta: beta.disentanglement > 0) == first_active
    assert first(lambda beta: beta.consistency > 0.01) == first_consistent
    assert first(lambda beta: beta.disentanglement == 1) == full
    assert first(lambda beta: beta.consistency == 1) == consistency_full
    assert all(b.regularization == 1 - b.disentanglement for b in betas[first_active:])


def test_first_active_epoch_of_40():
    betas = product_manifold_betas(11, 40)
    assert betas == pytest.approx((0.0439, 0.0036, 0.956), abs=1e-3 / 2)


def test_warm_up_lasts_one_epoch_more_than_its_share():
    assert not past_warm_up(10, 40)
    assert past_warm_up(11, 40)
    assert past_warm_up(3, 4, share=0.5)


def test_ramp_never_exceeds_one():
    assert exponential_ramp(1000, 1, full_at=0.4) == 1.0


@pytest.mark.parametrize("schedule", [past_warm_up, product_manifold_betas])
def test_training_without_a_length_is_refused(schedule):
    with pytest.raises(ValueError, match=r"max_epochs is -1: .* set trainer\.max_epochs"):
        schedule(0, -1)


@pytest.mark.parametrize(
    ("step", "capacity"),
    [(0, 0.0), (1, 0.00025), (25_000, 6.25), (99_999, 24.99975), (100_000, 25.0), (300_000, 25.0)],
)
def test_capacity_grows_linearly_and_then_stays(step, capacity):
    assert linear_capacity(step, 25.0, 100_000) == pytest.approx(capacity, rel=1e-12)


def test_capacity_needs_a_step_to_grow():
    assert [linear_capacity(step, 3.0, 1) for step in (0, 1, 2)] == [0.0, 3.0, 3.0]
    with pytest.raises(ValueError, match="steps is 0: the capacity needs at least 1 step"):
        linear_capacity(0, 25.0, 0)
