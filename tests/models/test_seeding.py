import torch

from detaux_pl.models.seeding import reseed


def draw(seed, epoch, rank):
    reseed(seed, epoch, rank)
    return torch.rand(4).tolist()


def test_same_place_same_numbers():
    assert draw(1, 2, 3) == draw(1, 2, 3)


def test_seed_epoch_and_rank_all_count():
    drawn = [
        draw(*place) for place in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (2**32 - 1, 9, 0)]
    ]
    assert len({tuple(numbers) for numbers in drawn}) == len(drawn)
