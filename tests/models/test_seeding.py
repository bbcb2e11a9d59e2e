import os

import pytest
import torch

from detaux_pl.models.seeding import reseed, reseed_batch

CPU = torch.device("cpu")


def draw(seed, epoch, batch, rank):
    reseed(seed, epoch, batch, rank, CPU)
    return torch.rand(4).tolist()


def test_same_place_same_numbers():
    assert draw(1, 2, 3, 4) == draw(1, 2, 3, 4)


def test_seed_epoch_batch_and_rank_all_count():
    places = [(0, 0, 0, 0), (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1)]
    drawn = [draw(*place) for place in [*places, (2**32 - 1, 9, 70_000, 0)]]
    assert len({tuple(numbers) for numbers in drawn}) == len(drawn)


def test_dropout_and_permutations_follow():
    for sample in (lambda: torch.randperm(50), lambda: torch.dropout(torch.ones(50), 0.5, True)):
        reseed(0, 1, 2, 3, CPU)
        first = sample()
        reseed(0, 1, 2, 3, CPU)
        assert torch.equal(sample(), first)


def test_without_a_seed_nothing_is_seeded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    before = torch.get_rng_state()
    reseed_batch(0, 0, 0, CPU)
    assert torch.equal(torch.get_rng_state(), before)
    monkeypatch.setitem(os.environ, "PL_GLOBAL_SEED", "5")
    reseed_batch(1, 2, 3, CPU)
    assert torch.rand(4).tolist() == draw(5, 1, 2, 3)
