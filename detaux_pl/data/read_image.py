"""One image file, whatever its format, as an array of the wanted size."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.ExifTags import Base

from detaux_pl.data.value_range import WHOLE, Deep, Levels, Range

Fit = Literal["crop", "stretch", "pad"]

MAX_PIXELS = 178_956_970
"""Most pixels of a file: what Pillow takes for no attack."""
HEIF = (".heic", ".heif", ".hif")
"""What the names of HEIF files end in."""
HEIF_HINT = 'pip install "detaux_pl[heif]", or save it as JPEG or PNG'

_GREY = ("I", "I;16", "I;16L", "I;16B", "I;16N", "F")
"""Pillow's modes of more than 8 bits, all grey."""
_SHALLOW = (b"\xff\xd8\xff", b"GIF8", b"BM", b"RIFF")
"""How files of formats begin that have 8 bits at most."""
_PNG = b"\x89PNG\r\n\x1a\n"
_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")

Source = Path | IO[bytes] | Image.Image


def read_image(
    source: Source,
    size: tuple[int, int],
    channels: int,
    fit: Fit = "crop",
    levels: Levels | None = None,
    max_pixels: int = MAX_PIXELS,
) -> NDArray[np.uint8]:
    """Decode, turn upright, convert and resize an image.

    A photograph is turned as its EXIF orientation says. CMYK and palette images become RGB, what
    is transparent becomes white, and pixels of more than 8 bits are scaled as `levels` says.
    Resizing is bilinear with antialiasing. A JPEG much larger than needed is decoded at a fraction
    of its size, no smaller than twice the wanted one.

    Args:
        source: The file, or an image that Pillow has opened.
        size: Height and width.
        channels: 1 for grey or 3 for RGB.
        fit: What becomes of another aspect ratio: `crop` cuts the longer side at both ends,
            `stretch` distorts, `pad` adds black borders.
        levels: How pixels of more than 8 bits become bytes; None for the whole range of 16 bits,
            and 0 to 1 of floating-point ones, beyond which an image is refused.
        max_pixels: Most pixels that the file may have.

    Returns:
        Pixels, shape (channels, height, width).

    Raises:
        ValueError: If it is no image, a damaged one or too large.
    """
    height, width = size
    try:
        with _open(source, max_pixels) as opened:
            # Draft modes know greater sizes only; the image may yet be turned.
            opened.draft(None, (2 * max(size), 2 * max(size)))
            image, negative = opened, _is_negative(opened)
            if levels is not None and levels.integers != WHOLE and _is_deep_colour(opened):
                image = _deep_colour(source, opened, levels)
            image = ImageOps.exif_transpose(image) if _is_turned(image) else image
            image = _convert(image, "L" if channels == 1 else "RGB", levels)
            image = ImageOps.invert(image) if negative else image
            image.load()
        if image.size == (width, height):
            pass
        elif fit == "crop":
            image = ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)
        elif fit == "pad":
            image = ImageOps.pad(image, (width, height), Image.Resampling.BILINEAR)
        else:
            image = image.resize((width, height), Image.Resampling.BILINEAR)
    except Exception as error:  # Pillow's decoders raise nearly anything over damaged files
        raise ValueError(_reason(error)) from None
    # Plane by plane, which is faster than to transpose the pixels.
    return np.stack([np.asarray(plane) for plane in image.split()])


def read_deep(source: Source, max_pixels: int = MAX_PIXELS) -> Deep | None:
    """Tell the values of an image of more than 8 bits; None for another one, or an unreadable.

    Args:
        source: The file, or an image that Pillow has opened.
        max_pixels: Most pixels that the file may have.
    """
    try:
        if not isinstance(source, Image.Image) and _is_shallow(source):
            return None
        with _open(source, max_pixels) as image:
            colour, declared = _is_deep_colour(image), _declares_its_range(image)
            negative = _is_negative(image)
            if not colour and image.mode not in _GREY:
                return None
            values = np.asarray(image)
    except Exception:  # as in read_image, which tells of it
        return None
    if colour:  # Pillow gives the upper bytes; opacity has a range of its own
        values = values[..., :-1] if image.mode in ("LA", "RGBA") else values
        return Deep(Range(0, (int(values.max()) << 8) + 0xFF), floats=False, before=16)
    if values.dtype.kind == "f":
        if not np.isfinite(values).all():
            return None
        return Deep(Range(float(values.min()), float(values.max())), floats=True, before=0)
    least, most = int(values.min()), int(values.max())
    before = 8 if image.mode == "I" and most <= 0xFF else 16
    if least < 0 or most > 0xFFFF or negative:
        before = 0
    return Deep(Range(least, 0xFFFF if declared else most), floats=False, before=before)


@contextmanager
def unguarded() -> Iterator[None]:
    """Leave the size of images to `max_pixels`: Pillow's own limit is one for the whole process.

    For a block that no thread of another owner enters: what it changes is global.
    """
    limit = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


@cache
def register_heif() -> bool:
    """Have Pillow read HEIF files, if the optional package for them is there; return whether."""
    try:
        import_module("pillow_heif").register_heif_opener()
    except ImportError:
        return False
    return True


def _open(source: Source, max_pixels: int) -> Image.Image:
    if isinstance(source, Image.Image):
        return source
    try:
        image = Image.open(source)
    except UnidentifiedImageError:
        head = _head(source)
        if head[4:8] != b"ftyp" or head[8:12] not in _HEIF_BRANDS:
            raise
        if not register_heif():
            raise ValueError(f"it is HEIF, which needs pillow-heif: {HEIF_HINT}") from None
        image = Image.open(source)
    n = image.width * image.height
    if n > max_pixels:
        image.close()
        raise ValueError(
            f"it has {n:,} pixels, more than max_pixels ({max_pixels:,}): raise max_pixels, which "
            f"takes {n * 4 / 1e9:.1f} GB of memory per core, or make it smaller"
        )
    return image


def _head(source: Path | IO[bytes]) -> bytes:
    """Return the first bytes of a file."""
    if isinstance(source, Path):
        with source.open("rb") as file:
            return file.read(32)
    source.seek(0)
    head = source.read(32)
    source.seek(0)
    return head


def _is_shallow(source: Path | IO[bytes]) -> bool:
    """Whether a file has 8 bits at most, by its first bytes: to open it takes ten times as long."""
    head = _head(source)
    return head.startswith(_SHALLOW) or (head.startswith(_PNG) and head[24] <= 8)


def _is_negative(image: Image.Image) -> bool:
    """Whether the greatest pixel is black: Pillow turns such TIFF files round up to 8 bits only."""
    tags: Any = getattr(image, "tag_v2", {})
    return image.mode in _GREY and tags.get(Base.PhotometricInterpretation) == 0


def _is_deep_colour(image: Image.Image) -> bool:
    """Whether an image that is not loaded yet has colours of 16 bits: Pillow keeps the upper 8."""
    if image.mode in _GREY:
        return False
    tiles: Any = getattr(image, "tile", ())
    for tile in tiles:
        args = list(tile.args) if isinstance(tile.args, tuple) else [tile.args]
        if ";16" in str(args[0] if args else "") or [tile.codec_name, *args[1:]] == ["ppm", 0xFFFF]:
            return True
    return False


def _declares_its_range(image: Image.Image) -> bool:
    """Whether Pillow scales what a file says is its greatest value to the whole of 16 bits."""
    tiles: list[Any] = getattr(image, "tile", [])
    return bool(tiles) and tiles[0].codec_name == "ppm"


def _deep_colour(source: Source, opened: Image.Image, levels: Levels) -> Image.Image:
    """Decode colours of 16 bits and scale them.

    Pillow keeps the upper byte of each. Read in the other order of bytes, the lower one is the
    upper.
    """
    tiles: list[Any] = getattr(opened, "tile", [])  # they are gone when it is loaded
    upper = np.asarray(opened).astype(np.uint16) << 8
    turned = [tile._replace(args=_other_order(tile.args)) for tile in tiles]
    if isinstance(source, Image.Image) or turned == tiles:
        raise ValueError(
            f"it has colours of 16 bits, of which only the upper 8 can be read from "
            f"{opened.format}, but the range of its data set is {levels.integers}: save it as PNG"
        )
    with Image.open(source) as again:
        vars(again)["tile"] = turned
        values = upper | np.asarray(again)
    scaled = levels.to_uint8(values)
    if opened.mode in ("LA", "RGBA"):
        scaled[..., -1] = values[..., -1] >> 8  # opacity has the whole range
    image = Image.fromarray(scaled, opened.mode)
    if _is_turned(opened):
        image.info["exif"] = opened.getexif().tobytes()
    return image


def _other_order(args: Any) -> Any:
    """Swap the order of bytes in the arguments of one of Pillow's decoders."""
    if isinstance(args, tuple):
        return (_other_order(args[0]), *args[1:])
    mode, _, depth = str(args).partition(";")
    other = {"16B": "16L", "16L": "16B"}.get(depth)
    return f"{mode};{other}" if other and mode in ("RGB", "RGBA", "CMYK") else args


def _convert(image: Image.Image, mode: str, levels: Levels | None) -> Image.Image:
    if image.mode == mode:
        return image
    if image.mode in _GREY:
        values = np.asarray(image)
        if not np.isfinite(values).all():
            raise ValueError("it has NaN or infinite pixels: mend it")
        if levels is None:
            least, most = values.min(), values.max()
            if least < 0 or most > (1 if image.mode == "F" else 0xFFFF):
                raise ValueError(f"its pixels are from {least} to {most}, which tell no range")
            levels = Levels()
        image = Image.fromarray(levels.to_uint8(values))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        ground = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(ground, image)
    return image.convert(mode)


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "it is no image"
    if isinstance(error, FileNotFoundError):
        return "it does not exist"
    text = " ".join(str(error).split())
    return text or type(error).__name__


def _is_turned(image: Image.Image) -> bool:
    # Asked first: exif_transpose copies an image that is upright, too. A JPEG has all that Pillow
    # asks for in its headers; to parse them takes a tenth of the decoding.
    if image.format == "JPEG" and "exif" not in image.info and "xmp" not in image.info:
        return False
    return bool(image.getexif().get(Base.Orientation, 1) != 1)
