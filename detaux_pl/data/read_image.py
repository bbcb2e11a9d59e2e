"""One image file, whatever its format, as an array of the wanted size."""

from __future__ import annotations

from pathlib import Path
from typing import IO, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.ExifTags import Base

Fit = Literal["crop", "stretch", "pad"]

_WIDE = ("I", "I;16", "I;16L", "I;16B", "I;16N")
"""Pillow's modes of more than 8 bits, all grey."""


def read_image(
    source: Path | IO[bytes] | Image.Image, size: tuple[int, int], channels: int, fit: Fit = "crop"
) -> NDArray[np.uint8]:
    """Decode, turn upright, convert and resize an image.

    A photograph is turned as its EXIF orientation says. CMYK and palette images become RGB, and
    16-bit ones keep their full range; what is transparent becomes white. Resizing is bilinear
    with antialiasing. A JPEG much larger than needed is decoded at a fraction of its size, no
    smaller than twice the wanted one.

    Args:
        source: The file, or an image that Pillow has opened.
        size: Height and width.
        channels: 1 for grey or 3 for RGB.
        fit: What becomes of another aspect ratio: `crop` cuts the longer side at both ends,
            `stretch` distorts, `pad` adds black borders.

    Returns:
        Pixels, shape (channels, height, width).

    Raises:
        ValueError: If it is no image, a damaged one, or one of floating-point or 32-bit pixels.
    """
    height, width = size
    try:
        with source if isinstance(source, Image.Image) else Image.open(source) as opened:
            # Draft modes know greater sizes only; the image may yet be turned.
            opened.draft(None, (2 * max(size), 2 * max(size)))
            image = ImageOps.exif_transpose(opened) if _is_turned(opened) else opened
            image = _convert(image, "L" if channels == 1 else "RGB")
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


def _convert(image: Image.Image, mode: str) -> Image.Image:
    if image.mode == mode:
        return image
    if image.mode == "F":
        raise ValueError("it has floating-point pixels: save it with 8 or 16 bits")
    if image.mode in _WIDE:
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise ValueError("its pixels exceed 16 bits: save it with 8 or 16")
        # Pillow itself clips at 255. Its mode I does not say how many bits a file meant.
        few = image.mode == "I" and values.max() <= 0xFF
        image = Image.fromarray((values if few else values >> 8).astype(np.uint8))
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
