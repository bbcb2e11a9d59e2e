from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from PIL import Image

from detaux_pl.data.read_image import read_deep, read_image
from detaux_pl.data.value_range import Levels, Range

_CORNERS = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 255]]], dtype=np.uint8)
"""Red, green, blue and white, from the top left, by rows."""


def _image(height: int = 4, width: int = 4) -> Image.Image:
    """Four fields of colour."""
    return Image.fromarray(_CORNERS.repeat(height // 2, 0).repeat(width // 2, 1))


def _read(path: Path, size: tuple[int, int] = (4, 4), channels: int = 3) -> np.ndarray:  # type: ignore[type-arg]
    pixels = read_image(path, size, channels)
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    assert pixels.shape == (channels, *size)
    return pixels


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".gif", ".tif", ".ppm"])
def test_lossless_formats_keep_their_pixels(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"image{suffix}"
    _image().save(path)
    np.testing.assert_array_equal(_read(path), np.asarray(_image()).transpose(2, 0, 1))


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".jp2"])
def test_lossy_formats_keep_them_nearly(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"image{suffix}"
    _image(32, 32).save(path, quality=100, **({"subsampling": 0} if suffix == ".jpg" else {}))
    difference = _read(path, (32, 32)).astype(int) - np.asarray(_image(32, 32)).transpose(2, 0, 1)
    assert abs(difference).mean() < 8  # colour is stored at half the size


def test_webp_without_loss_and_animations_give_their_first_frame(tmp_path: Path) -> None:
    _image().save(tmp_path / "image.webp", lossless=True)
    np.testing.assert_array_equal(
        _read(tmp_path / "image.webp"), np.asarray(_image()).transpose(2, 0, 1)
    )
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    assert _read(tmp_path / "moving.gif")[:, 0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_exif_orientation_turns_the_image(tmp_path: Path, orientation: int, suffix: str) -> None:
    upright = np.asarray(_image(32, 64))
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"photo{suffix}"
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif, quality=100)
    pixels = _read(path, (32, 64))
    difference = pixels[:, 8::16, 8::16].astype(int) - upright[8::16, 8::16].transpose(2, 0, 1)
    assert abs(difference).max() < 10


def test_grey_becomes_three_equal_channels_and_rgb_becomes_luminance(tmp_path: Path) -> None:
    grey = np.arange(0, 256, 16, dtype=np.uint8).reshape(4, 4)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(_read(tmp_path / "grey.png"), np.stack([grey] * 3))
    np.testing.assert_array_equal(_read(tmp_path / "grey.png", channels=1), grey[None])
    _image().save(tmp_path / "colour.png")
    luminance = _read(tmp_path / "colour.png", channels=1)[0, ::2, ::2]
    assert luminance.tolist() == [[76, 150], [29, 255]]  # ITU-R 601


def test_one_bit(tmp_path: Path) -> None:
    Image.fromarray(np.eye(4, dtype=bool)).save(tmp_path / "bits.png")
    np.testing.assert_array_equal(_read(tmp_path / "bits.png", channels=1)[0], np.eye(4) * 255)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits_keep_their_range(tmp_path: Path, suffix: str) -> None:
    levels = np.arange(16, dtype=np.uint16).reshape(4, 4) * 0x1111
    path = tmp_path / f"deep{suffix}"
    Image.fromarray(levels).save(path)
    np.testing.assert_array_equal(_read(path, channels=1)[0], levels >> 8)
    np.testing.assert_array_equal(_read(path)[2], levels >> 8)


def test_big_endian_sixteen_bits(tmp_path: Path) -> None:
    levels = np.arange(16, dtype=">u2").reshape(4, 4) * 0x1111
    path = tmp_path / "deep.pgm"
    path.write_bytes(b"P5 4 4 65535\n" + levels.astype(">u2").tobytes())
    np.testing.assert_array_equal(_read(path, channels=1)[0], levels >> 8)


def test_palette(tmp_path: Path) -> None:
    image = _image().quantize(4)
    image.save(tmp_path / "palette.png")
    with Image.open(tmp_path / "palette.png") as stored:
        assert stored.mode == "P"
    np.testing.assert_array_equal(
        _read(tmp_path / "palette.png"), np.asarray(_image()).transpose(2, 0, 1)
    )


@pytest.mark.parametrize("suffix", [".png", ".gif"])
def test_transparent_palette_entry_is_white(tmp_path: Path, suffix: str) -> None:
    image = Image.fromarray(np.arange(4, dtype=np.uint8).reshape(2, 2)).convert("P")
    image.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255])
    image.save(tmp_path / f"clear{suffix}", transparency=0)
    pixels = _read(tmp_path / f"clear{suffix}", (2, 2))
    assert pixels.transpose(1, 2, 0).tolist() == [
        [[255, 255, 255], [255, 0, 0]],
        [[0, 255, 0], [0, 0, 255]],
    ]


def test_transparency_is_laid_on_white(tmp_path: Path) -> None:
    colour = np.zeros((2, 2, 4), dtype=np.uint8)
    colour[..., 0], colour[..., 3] = 255, [[0, 255], [128, 255]]
    Image.fromarray(colour).save(tmp_path / "colour.png")
    pixels = _read(tmp_path / "colour.png", (2, 2))
    assert pixels[0].tolist() == [[255, 255], [255, 255]]
    assert pixels[1].tolist() == [[255, 0], [127, 0]]
    grey = np.array([[[9, 0], [9, 255]], [[99, 255], [0, 0]]], dtype=np.uint8)
    Image.fromarray(grey, "LA").save(tmp_path / "grey.png")
    assert _read(tmp_path / "grey.png", (2, 2), 1)[0].tolist() == [[255, 9], [99, 255]]


@pytest.mark.parametrize("suffix", [".tif", ".jpg"])  # Adobe's JPEGs, and Pillow's, are inverted
def test_cmyk_becomes_rgb(tmp_path: Path, suffix: str) -> None:
    inks = [(0, 255, 255, 0), (255, 0, 255, 0), (255, 255, 0, 0), (0, 0, 0, 0)]
    fields = np.array(inks, dtype=np.uint8).reshape(2, 2, 4).repeat(8, 0).repeat(8, 1)
    path = tmp_path / f"print{suffix}"
    Image.fromarray(fields, "CMYK").save(path, quality=100)
    with Image.open(path) as stored:
        assert stored.mode == "CMYK"
    pixels = _read(path, (16, 16))[:, 4::8, 4::8].transpose(1, 2, 0)
    assert abs(pixels.astype(int) - _CORNERS).max() < 4


def test_floats_are_shares_and_what_tells_no_range_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "deep.tif"
    Image.fromarray(np.full((4, 4), 0.5, dtype=np.float32)).save(path)
    assert np.unique(_read(path)).tolist() == [128]
    for value, text in ((70_000, "70000 to 70000"), (-3, "-3 to -3")):
        Image.fromarray(np.full((4, 4), value, dtype=np.int32)).save(path)
        with pytest.raises(ValueError, match=f"its pixels are from {text}, which tell no range"):
            _read(path)
    Image.fromarray(np.full((4, 4), 2.0, dtype=np.float32)).save(path)
    with pytest.raises(ValueError, match=r"from 2\.0 to 2\.0, which tell no range"):
        _read(path)
    Image.fromarray(np.full((4, 4), np.nan, dtype=np.float32)).save(path)
    with pytest.raises(ValueError, match="it has NaN or infinite pixels"):
        _read(path)


@pytest.mark.parametrize(
    ("fit", "columns"),
    [
        ("crop", ["green", "blue"]),
        ("stretch", ["red", "green", "blue", "white"]),
        ("pad", ["red", "green", "blue", "white"]),
    ],
)
def test_fits(fit: Literal["crop", "stretch", "pad"], columns: list[str]) -> None:
    image = Image.new("RGB", (64, 32))
    for place, colour in enumerate(["red", "green", "blue", "white"]):
        image.paste(colour, (16 * place, 0, 16 * place + 16, 32))
    pixels = read_image(image, (32, 32), 3, fit)
    middle = [tuple(p) for p in pixels[:, 16, :].T.tolist()]
    wide = 32 // len(columns)
    assert [middle[wide * k + wide // 2] for k in range(len(columns))] == [
        Image.new("RGB", (1, 1), colour).getpixel((0, 0)) for colour in columns
    ]
    assert pixels[:, [0, 7, 24, 31]].any() == (fit != "pad")


def test_huge_jpeg_is_drafted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "huge.jpg"
    _image(1024, 2048).save(path, quality=90)
    whole = np.asarray(Image.open(path).resize((32, 16), Image.Resampling.BILINEAR))
    sizes = []
    resize = Image.Image.resize

    def note(self: Image.Image, *args: object, **kwargs: object) -> Image.Image:
        sizes.append(self.size)
        return resize(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(Image.Image, "resize", note)
    pixels = read_image(path, (16, 32), 3, "stretch")
    assert sizes == [(256, 128)]  # an eighth, the most that the format offers
    assert abs(pixels.transpose(1, 2, 0).astype(int) - whole).mean() < 2


def test_names_beyond_ascii(tmp_path: Path) -> None:
    path = tmp_path / "größe 大きさ \N{CAT FACE}.png"
    _image().save(path)
    assert _read(path)[:, 0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("empty.jpg", b"", "it is no image"),
        ("text.jpg", b"<html>404</html>", "it is no image"),
        ("head.png", b"\x89PNG\r\n\x1a\n", "."),
    ],
)
def test_what_is_no_image_is_refused(
    tmp_path: Path, name: str, content: bytes, reason: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=reason):
        _read(path)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "TIFF", "BMP", "WEBP"])
@pytest.mark.parametrize("share", [0.2, 0.6, 0.9])
def test_truncated_files_are_refused(tmp_path: Path, kind: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).save(stream, kind)
    path = tmp_path / "part"
    path.write_bytes(stream.getvalue()[: int(share * stream.tell())])
    with pytest.raises(ValueError, match=r"^[^\n]+$"):
        _read(path)


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="it does not exist"):
        _read(tmp_path / "none.png")


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of damaged metadata
def test_damaged_files_give_an_image_or_a_reason() -> None:
    rng = np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "text"
    reasons, shapes = [], set()
    for kind in ("JPEG", "PNG", "WEBP"):
        stream = io.BytesIO()
        _image(32, 32).save(stream, kind, exif=exif)
        for _ in range(200):
            content = bytearray(stream.getvalue())
            for place in rng.integers(0, min(len(content), 150), 3):
                content[place] = rng.integers(256)
            try:
                shapes.add(read_image(io.BytesIO(bytes(content)), (8, 8), 3).shape)
            except ValueError as error:
                reasons.append(str(error))
    assert shapes == {(3, 8, 8)}
    assert len(reasons) > 100
    assert all(reason and "\n" not in reason for reason in reasons)


def _tiff(pixels: np.ndarray, photometric: int) -> bytes:  # type: ignore[type-arg]
    """A grey TIFF file of one strip; of photometric 0 the greatest pixel is black."""
    height, width = pixels.shape
    data, bits = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes(), 8 * pixels.itemsize
    tags = {
        256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1, 278: height,
        279: len(data),
    }  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    head = b"II*\0" + struct.pack("<I", 8 + len(data))
    return head + data + struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0)


@pytest.mark.parametrize(("dtype", "most"), [(np.uint8, 255), (np.uint16, 4095)])
def test_a_tiff_whose_least_pixel_is_white_is_no_negative(dtype, most):
    pixels = np.linspace(0, most, 16).astype(dtype).reshape(4, 4)
    levels = Levels(Range(0, 4095), as_before=False)
    black, white = (
        read_image(io.BytesIO(_tiff(pixels, kind)), (4, 4), 1, levels=levels)[0] for kind in (1, 0)
    )
    assert black[0, 0] == 0
    assert black[3, 3] == 255
    np.testing.assert_array_equal(white, 255 - black)
    deep = [read_deep(io.BytesIO(_tiff(pixels, kind))) for kind in (1, 0)]
    if most > 255:  # whose bytes were others before, and are kept under another key
        assert [each.before for each in deep] == [16, 0]
