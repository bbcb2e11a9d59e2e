from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from detaux_pl.artifacts.errors import UserError
from detaux_pl.data.crop_flip import CropFlip
from detaux_pl.data.photo_augmentation import PhotoAugmentation
from detaux_pl.data.simclr_augmentation import SimCLRAugmentation


def _images(n: int = 64, size: int = 16) -> Tensor:
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("preset", ["full", "color"])
@pytest.mark.parametrize("size", [8, 16, 40])
def test_every_image_is_distorted_as_the_seed_says(preset: Any, size: int) -> None:
    images = _images(size=size)
    augment = SimCLRAugmentation(preset)
    assert augment.output_shape((3, size, size)) == (3, size, size)
    distorted = augment(images, 3)
    assert distorted.shape == images.shape
    assert 0 <= distorted.min() < distorted.max() <= 1
    differ = (distorted != images).flatten(1).any(dim=1)
    assert differ.float().mean() > 0.7
    assert torch.equal(SimCLRAugmentation(preset)(images, 3), distorted)
    assert not torch.equal(augment(images, 4), distorted)
    assert torch.equal(augment.clean(images), images)


def test_global_generator_is_left_as_it_is() -> None:
    before = torch.get_rng_state()
    SimCLRAugmentation()(_images(), 3)
    CropFlip(8)(_images(), 3)
    assert torch.equal(torch.get_rng_state(), before)


def test_each_image_has_a_draw_of_its_own() -> None:
    images = _images(1).expand(64, -1, -1, -1)
    distorted = SimCLRAugmentation()(images, 0)
    assert len({tuple(image.flatten().tolist()) for image in distorted}) == 64


def test_color_leaves_geometry_alone() -> None:
    """The order of a pixel's neighbours in brightness may change, its place not."""
    images = torch.zeros(400, 3, 16, 16)
    images[:, :, 4:7, 9:12] = torch.tensor([0.6, 0.5, 0.7])[:, None, None]
    inside = images[0, 0] > 0
    coloured = SimCLRAugmentation("color")(images, 1)
    for part in (inside, ~inside):
        pixels = coloured[..., part]
        assert (pixels == pixels[..., :1]).all()  # flat areas stay flat, with the same borders
    moved = SimCLRAugmentation("full")(images, 1)[..., ~inside]
    assert (moved != moved[..., :1]).any()


def test_what_is_not_mirrored_keeps_left_and_right() -> None:
    images = torch.linspace(0.1, 0.6, 16).expand(64, 3, 16, 16)
    rising = {}
    for preset in ("full", "unmirrored"):
        views = SimCLRAugmentation(preset, 0.5)(images, 1)  # type: ignore[arg-type]
        rising[preset] = (views[..., -1] >= views[..., 0] - 1e-5).all(dim=(1, 2))
    assert rising["unmirrored"].all()
    assert 0.3 < rising["full"].float().mean() < 0.7


def test_shares_are_those_of_the_paper() -> None:
    images = _images(4000, 8)
    distorted = SimCLRAugmentation("color")(images, 2)
    grey = (distorted[:, 0] - distorted[:, 1]).abs().amax((1, 2)) < 1e-6
    grey &= (distorted[:, 1] - distorted[:, 2]).abs().amax((1, 2)) < 1e-6
    assert grey.float().mean() == pytest.approx(0.2, abs=0.025)
    # Neither jittered, 1 in 5, nor made grey, 4 in 5.
    same = (distorted == images).flatten(1).all(dim=1)
    assert same.float().mean() == pytest.approx(0.16, abs=0.025)


def test_strength_of_zero_leaves_the_colours() -> None:
    images = _images(1000, 8)
    distorted = SimCLRAugmentation("color", strength=0.0)(images, 2)
    close = ((distorted - images).abs() < 1e-5).flatten(1).all(dim=1)
    assert close.float().mean() == pytest.approx(0.8, abs=0.05)


def test_values_outside_their_range() -> None:
    with pytest.raises(ValueError, match="preset is 'colour': give full, unmirrored or color"):
        SimCLRAugmentation("colour")  # type: ignore[arg-type]
    for strength in (-0.1, 1.3):
        with pytest.raises(ValueError, match=f"strength is {strength}"):
            SimCLRAugmentation(strength=strength)
    with pytest.raises(UserError, match="needs 3"):
        SimCLRAugmentation().output_shape((1, 8, 8))


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


class TestPhotoAugmentation:
    @pytest.mark.parametrize("strength", ["light", "standard", "strong"])
    @pytest.mark.parametrize("shape", [(3, 16, 16), (1, 9, 17)])
    def test_every_image_is_changed_as_the_seed_says(
        self, strength: Any, shape: tuple[int, int, int]
    ) -> None:
        images = torch.rand(24, *shape, generator=torch.Generator().manual_seed(0))
        before = torch.get_rng_state()
        augment = PhotoAugmentation(strength)
        assert augment.output_shape(shape) == shape
        changed = augment(images, 3)
        assert changed.shape == images.shape
        assert 0 <= changed.min() < changed.max() <= 1
        assert (changed != images).flatten(1).any(dim=1).float().mean() > 0.7
        assert torch.equal(PhotoAugmentation(strength)(images, 3), changed)
        assert not torch.equal(augment(images, 4), changed)
        assert torch.equal(augment.clean(images), images)
        assert torch.equal(torch.get_rng_state(), before)
        alike = augment(images[:1].expand(24, -1, -1, -1), 0)
        assert len({tuple(image.flatten().tolist()) for image in alike}) > 8

    @pytest.mark.parametrize("flip", [False, True])
    def test_light_is_a_shift_by_an_eighth_and_a_flip_where_asked_for(self, flip: bool) -> None:
        columns = torch.arange(16.0).expand(400, 1, 16, 16) / 15
        row = PhotoAugmentation("light", flip)(columns, 0)[:, 0, 0] * 15
        middle = row[:, 4:12]
        steps = middle[:, 1:] - middle[:, :-1]
        torch.testing.assert_close(steps.abs(), torch.ones_like(steps))
        assert (steps > 0).all(dim=1).float().mean() == pytest.approx(1 - flip / 2, abs=0.08)
        shift = (row[steps[:, 0] > 0, 7] - 7).round()
        assert sorted(set(shift.tolist())) == [-2, -1, 0, 1, 2]

    def test_a_quarter_of_strong_images_has_a_rectangle_erased(self) -> None:
        images = torch.zeros(400, 1, 16, 16)
        strong = PhotoAugmentation("strong")(images, 0)
        grey = (strong == 0.5).flatten(1).float().mean(dim=1)
        assert (grey > 0.01).float().mean() == pytest.approx(0.25, abs=0.08)

    def test_what_does_not_fit(self) -> None:
        with pytest.raises(ValueError, match="strength is 'heavy': give light, standard or strong"):
            PhotoAugmentation("heavy")  # type: ignore[arg-type]
        with pytest.raises(UserError, match="augment: strong changes colours, but the images have"):
            PhotoAugmentation("strong").output_shape((4, 16, 16))
        assert PhotoAugmentation("light").output_shape((4, 16, 16)) == (4, 16, 16)
