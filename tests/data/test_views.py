from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor

from detaux_pl.artifacts.errors import UserError
from detaux_pl.data.crop_flip import CropFlip
from detaux_pl.data.views import SimCLRViews


def _images(n: int = 64, size: int = 16) -> Tensor:
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("preset", ["full", "color"])
def test_two_different_views_of_each_image(preset: str) -> None:
    images = _images()
    views = SimCLRViews(preset)(images, 3)  # type: ignore[arg-type]
    assert views.shape == (2, 64, 3, 16, 16)
    assert 0 <= views.min() < views.max() <= 1
    differ = (views[0] != views[1]).flatten(1).any(dim=1)
    assert differ.float().mean() > 0.9
    assert torch.equal(SimCLRViews(preset)(images, 3), views)  # type: ignore[arg-type]
    assert not torch.equal(SimCLRViews(preset)(images, 4), views)  # type: ignore[arg-type]


def test_global_generator_is_left_as_it_is() -> None:
    before = torch.get_rng_state()
    SimCLRViews()(_images(), 3)
    CropFlip(8)(_images(), 3)
    assert torch.equal(torch.get_rng_state(), before)


def test_each_image_has_a_draw_of_its_own() -> None:
    images = _images(1).expand(32, -1, -1, -1)
    views = SimCLRViews()(images, 0).flatten(0, 1)
    assert len({tuple(view.flatten().tolist()) for view in views}) > 55


def test_color_leaves_geometry_alone() -> None:
    """The order of a pixel's neighbours in brightness may change, its place not."""
    images = torch.zeros(200, 3, 16, 16)
    images[:, :, 4:7, 9:12] = torch.tensor([0.6, 0.5, 0.7])[:, None, None]
    inside = images[0, 0] > 0
    views = SimCLRViews("color")(images, 1).flatten(0, 1)
    for part in (inside, ~inside):
        pixels = views[..., part]
        assert (pixels == pixels[..., :1]).all()  # flat areas stay flat, with the same borders
    moved = SimCLRViews("full")(images, 1).flatten(0, 1)[..., ~inside]
    assert (moved != moved[..., :1]).any()


def test_shares_are_those_of_the_paper() -> None:
    images = _images(2000, 8)
    views = SimCLRViews("color")(images, 2).flatten(0, 1)
    grey = (views[:, 0] - views[:, 1]).abs().amax((1, 2)) < 1e-6
    grey &= (views[:, 1] - views[:, 2]).abs().amax((1, 2)) < 1e-6
    assert grey.float().mean() == pytest.approx(0.2, abs=0.025)
    # Neither jittered, 1 in 5, nor made grey, 4 in 5.
    same = (views == images.repeat(2, 1, 1, 1)).flatten(1).all(dim=1)
    assert same.float().mean() == pytest.approx(0.16, abs=0.025)


def test_strength_of_zero_leaves_the_colours() -> None:
    images = _images(500, 8)
    views = SimCLRViews("color", strength=0.0)(images, 2)
    close = ((views - images).abs() < 1e-5).flatten(2).all(dim=2)
    assert close.float().mean() == pytest.approx(0.8, abs=0.05)


def test_values_outside_their_range() -> None:
    with pytest.raises(ValueError, match="preset is 'colour': give full or color"):
        SimCLRViews("colour")  # type: ignore[arg-type]
    for strength in (-0.1, 1.3):
        with pytest.raises(ValueError, match=f"strength is {strength}"):
            SimCLRViews(strength=strength)
    with pytest.raises(UserError, match="needs 3"):
        SimCLRViews().output_shape((1, 8, 8))


def test_importing_the_data_room_does_not_import_kornia() -> None:
    code = "import sys, detaux_pl.data.modules; sys.exit('kornia' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


class TestCropFlip:
    def test_every_place_and_both_sides_are_as_frequent(self) -> None:
        columns = torch.arange(6.0).expand(1, 6, 6)
        image = torch.stack([columns, columns.mT], dim=1)  # its column and its row
        crops = CropFlip(4)(image.expand(9000, -1, -1, -1), 0)
        left, right = crops[:, 0, 0, 0], crops[:, 0, 0, -1]
        flipped = left > right
        assert ((left - right).abs() == 3).all()
        place = torch.minimum(left, right) * 3 + crops[:, 1, 0, 0]
        counts = torch.bincount((place + 9 * flipped).long(), minlength=18)
        assert len(counts) == 18
        assert (counts - 500).abs().max() < 4 * 500**0.5

    def test_no_flip(self) -> None:
        columns = torch.arange(6.0).expand(200, 3, 6, 6)
        crops = CropFlip(4, flip=False)(columns, 0)
        assert (crops[..., 0] < crops[..., -1]).all()

    def test_whole_images(self) -> None:
        images = _images(200)
        crops = CropFlip(16)(images, 1)
        same = (crops == images).flatten(1).all(dim=1)
        mirrored = (crops == images.flip(-1)).flatten(1).all(dim=1)
        assert (same ^ mirrored).all()
        assert torch.equal(CropFlip(16).clean(images), images)
