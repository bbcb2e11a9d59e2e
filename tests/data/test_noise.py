from __future__ import annotations

import pytest
import torch
from torch import Tensor

from detaux_pl.data.noise import SaltPepper, uniform

_N, _SIZE = 200, 16


def _grey(n: int = _N) -> tuple[Tensor, Tensor]:
    return torch.full((n, 3, _SIZE, _SIZE), 0.5), torch.arange(n)


def test_share_of_pixels_half_white_half_black() -> None:
    noisy = SaltPepper(amount=0.15)(*_grey())
    pixels = _N * _SIZE**2
    sigma = (0.075 * 0.925 / pixels) ** 0.5
    for level in (0.0, 1.0):
        assert (noisy[:, 0] == level).float().mean().item() == pytest.approx(0.075, abs=4 * sigma)


def test_a_pixel_is_replaced_in_all_channels() -> None:
    noisy = SaltPepper(amount=0.3)(*_grey())
    assert (noisy == noisy[:, :1]).all()


def test_what_is_not_replaced_stays_and_the_input_too() -> None:
    images = torch.rand(50, 3, _SIZE, _SIZE) * 0.8 + 0.1
    before = images.clone()
    noisy = SaltPepper(amount=0.2)(images, torch.arange(50))
    kept = (noisy > 0) & (noisy < 1)
    assert torch.equal(images, before)
    assert torch.equal(noisy[kept], images[kept])
    assert kept.float().mean().item() == pytest.approx(0.8, abs=0.02)


@pytest.mark.parametrize(("amount", "replaced"), [(0.0, 0.0), (1.0, 1.0)])
def test_extreme_amounts(amount: float, replaced: float) -> None:
    images, rows = _grey(5)
    assert (SaltPepper(amount)(images, rows) != images).float().mean() == replaced


@pytest.mark.parametrize("mode", ["pixel", "elementwise_16", "gaussian_71"])
def test_field_of_a_sample_does_not_depend_on_its_batch(mode: str) -> None:
    images, rows = torch.rand(40, 3, _SIZE, _SIZE), torch.arange(40) + 1000
    noise = SaltPepper(mode=mode, seed=3)  # type: ignore[arg-type]
    noisy = noise(images, rows)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    assert torch.equal(noise(images[order], rows[order]), noisy[order])
    assert torch.equal(noise(images[7:8], rows[7:8]), noisy[7:8])
    assert torch.equal(noise(images, rows, epoch=5), noisy)  # redraw is not set


def test_samples_and_seeds_differ() -> None:
    images, rows = _grey(2)
    one, other = SaltPepper(seed=0)(images, rows), SaltPepper(seed=1)(images, rows)
    assert not torch.equal(one[0], one[1])
    assert not torch.equal(one, other)


def test_redraw_follows_the_epoch() -> None:
    images, rows = _grey(20)
    noise = SaltPepper(redraw=True)
    first, second = noise(images, rows, epoch=1), noise(images, rows, epoch=2)
    assert not torch.equal(first, second)
    assert torch.equal(first, noise(images, rows, epoch=1))
    assert torch.equal(noise(images, rows), SaltPepper()(images, rows))
    # The fields of two epochs are independent: both replace .15² of the pixels.
    both = ((first != 0.5) & (second != 0.5)).float().mean().item()
    assert both == pytest.approx(0.15**2, abs=0.008)


def test_official_elementwise_noise() -> None:
    images, rows = _grey()
    noisy = SaltPepper(mode="elementwise_16", seed=4)(images, rows)
    # A draw below .08 gives .98, one from .92 gives .02.
    field = uniform(4, rows, 3 * _SIZE**2).view_as(images)
    assert torch.equal(noisy == 0.98, field < 0.08)
    assert torch.equal(noisy == 0.02, field >= 0.92)
    assert (noisy == 0.98).float().mean().item() == pytest.approx(0.08, abs=0.003)
    assert (noisy == 0.02).float().mean().item() == pytest.approx(0.08, abs=0.003)
    touched = (noisy != 0.5).any(dim=1).float().mean().item()
    assert touched == pytest.approx(0.408, abs=0.01)  # docs/methods.md, 'Data and pairs': 1 - .84³


def test_official_gaussian_noise() -> None:
    noisy = SaltPepper(mode="gaussian_71")(*_grey())
    assert (noisy == 0.98).float().mean().item() == pytest.approx(0.532, abs=0.005)
    assert (noisy == 0.02).float().mean().item() == pytest.approx(0.179, abs=0.005)
    intact = (noisy == 0.5).all(dim=1).float().mean().item()
    assert intact == pytest.approx(0.024, abs=0.004)  # docs/methods.md, 'Data and pairs'


@pytest.mark.parametrize("amount", [-0.1, 1.5])
def test_amount_outside_its_range_is_refused(amount: float) -> None:
    with pytest.raises(ValueError, match="amount"):
        SaltPepper(amount)


def _split_mix(seed: int, row: int, position: int) -> float:
    """SplitMix64 with Python's whole numbers, wrapped by hand."""
    mask, golden = (1 << 64) - 1, 0x9E3779B97F4A7C15

    def mix(x: int) -> int:
        x = ((x ^ x >> 30) * 0xBF58476D1CE4E5B9) & mask
        x = ((x ^ x >> 27) * 0x94D049BB133111EB) & mask
        return x ^ x >> 31

    base = mix((row * golden + seed) & mask)
    return (mix((base + (position + 1) * golden) & mask) >> 40) / (1 << 24)


@pytest.mark.parametrize("seed", [0, 7, (1 << 63) + 5, 12 << 32])
def test_uniform_equals_plain_split_mix(seed: int) -> None:
    rows = torch.tensor([0, 1, 479_999, 1 << 40])
    found = uniform(seed, rows, 5)
    expected = [[_split_mix(seed, row, i) for i in range(5)] for row in rows.tolist()]
    assert found.dtype == torch.float32
    assert found.tolist() == expected


def test_split_mix_is_the_published_one() -> None:
    # The first output of the published generator at seed 1234567 is mix(seed + golden), which is
    # what the base of row 1 is; its 64 bits are known.
    mask = (1 << 64) - 1
    x = (1234567 + 0x9E3779B97F4A7C15) & mask
    x = ((x ^ x >> 30) * 0xBF58476D1CE4E5B9) & mask
    x = ((x ^ x >> 27) * 0x94D049BB133111EB) & mask
    assert x ^ x >> 31 == 6457827717110365317


def test_uniform_is_uniform_and_uncorrelated() -> None:
    x = uniform(0, torch.arange(1000), 1000).double()
    assert 0.0 <= x.min() < 1e-4
    assert 1.0 - 1e-4 < x.max() < 1.0
    # Five standard errors of n = 10⁶ draws.
    assert x.mean().item() == pytest.approx(1 / 2, abs=5 * (1 / 12e6) ** 0.5)
    assert x.var().item() == pytest.approx(1 / 12, abs=5 * (1 / 180e6) ** 0.5)
    counts = torch.histc(x, bins=64, min=0.0, max=1.0)
    chi_square = ((counts - x.numel() / 64) ** 2 / (x.numel() / 64)).sum().item()
    assert chi_square < 63 + 5 * (2 * 63) ** 0.5
    centred = (x - 0.5) * 12**0.5
    other = (uniform(1, torch.arange(1000), 1000).double() - 0.5) * 12**0.5
    for pair in (
        (centred[1:], centred[:-1]),  # neighbouring rows
        (centred[:, 1:], centred[:, :-1]),  # neighbouring positions
        (centred[1:, :-1], centred[:-1, 1:]),
        (centred, other),  # neighbouring seeds
    ):
        assert abs((pair[0] * pair[1]).mean().item()) < 5e-3  # 5 standard errors
