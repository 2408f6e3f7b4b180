"""Reads JPEG, PNG, BMP, WebP, AVIF and JPEG 2000 as 8-bit RGB, with Pillow."""

from collections.abc import Callable
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngImageFile

from client.data.decoding.formats import EXPORT, FormError, refuse_several, refuse_unknown
from client.data.decoding.samples import (
    bounded,
    eight_bits,
    on_white,
    picture,
    refuse_unfilled,
    upright,
)

_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "AVIF", "JPEG2000")
_GAP = 2
"""A JPEG is decoded at 1/2, 1/4 or 1/8 only if its sides stay this many times `draft` or more."""
_ORIENTATION = 0x0112
_CODESTREAM = b"\xff\x4f\xff\x51"
_DEPTH_AT = 42
"""Where JPEG 2000 states its first sample depth, in bytes from the start of the codestream
(ISO 15444-1, A.5.1)."""


def read_bitmap(file: BinaryIO, draft: int | None, look: Callable[[int, int], None]) -> Image.Image:
    """Read the picture in `file`; call `look` with its width and height before decoding it.

    draft: a JPEG may come smaller, but no side under `draft` times 2 pixels; None: full size.

    Raises:
        FormError: the form is not read, the file has several pictures, or its pixels have no one
            meaning.
        DataError: the file is no picture, or damaged at its beginning.
        Exception: whatever Pillow raises for a damaged file.
    """
    try:
        image = Image.open(file, formats=_FORMATS)
    except UnidentifiedImageError:
        refuse_unknown(file)
    with image:
        bounded(*image.size)
        look(*image.size)
        refuse_several(getattr(image, "n_frames", 1))
        if draft is not None and image.format == "JPEG":
            image.draft("RGB", (draft * _GAP, draft * _GAP))
        deep = _depth(image, file)
        image.load()
        shown = _rgb(image, deep)
        # A PNG may store its EXIF behind the pixels, so this line comes after `load`.
        turned = image.getexif().get(_ORIENTATION, 1) if "exif" in image.info else 1
    return upright(shown, turned)


def _depth(image: Image.Image, file: BinaryIO) -> int:
    """Bits of a sample, if the file has more than the 8 that Pillow gives; else 8 or fewer."""
    if isinstance(image, PngImageFile) and ";16" in str(image.tile):
        return 16
    if image.format != "JPEG2000":
        return 8
    file.seek(0)
    content = file.read()
    start = content.find(_CODESTREAM)
    return (content[start + _DEPTH_AT] & 0x7F) + 1


def _rgb(image: Image.Image, bits: int) -> Image.Image:
    if bits > 8 and "transparency" in image.info:
        raise FormError(f"a colour of {bits}-bit samples is to be transparent; {EXPORT}")
    if image.mode.startswith("I;16"):
        # Pillow spreads samples of fewer bits over the whole range of 16.
        return picture(eight_bits(np.asarray(image), 16)[..., None])
    if bits > 8 and image.format == "JPEG2000":
        # Pillow 13 rounds the largest sample up to 256, which a byte stores as 0.
        raise FormError(f"is JPEG 2000 in colours of {bits} bits; {EXPORT}")
    if image.mode in ("I", "F"):
        raise FormError(f"its pixels are of mode {image.mode}; {EXPORT}")
    if image.has_transparency_data:
        levels = np.asarray(image.convert("RGBA"))
        image = picture(on_white(levels[..., :3], levels[..., 3]))
    elif image.mode != "RGB":
        image = image.convert("RGB")
    if bits > 8:
        refuse_unfilled(np.asarray(image), bits)
    return image
