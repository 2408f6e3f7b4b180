"""Converts a file's samples to 8-bit RGB: depth, transparency, orientation."""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from client.data.decoding.formats import EXPORT, FormError

Levels = NDArray[np.uint8]
Alpha = Literal["straight", "premultiplied"]

_DARK = 64
"""A level (0 to 255) that the background of a picture in transmitted light far exceeds."""

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def bounded(width: int, height: int) -> None:
    """Check the size that a file states of its picture, before memory is allocated for it.

    Raises:
        FormError: more pixels than `Image.MAX_IMAGE_PIXELS`, Pillow's own bound of about 90
            million.
        ValueError: a side under one pixel.
    """
    most = Image.MAX_IMAGE_PIXELS or 0
    if width < 1 or height < 1:
        raise ValueError(f"a picture of {width} x {height} px")
    if width * height > most:
        raise FormError(f"{width} x {height} px are more than the {most:,} that are read; {EXPORT}")


def eight_bits(samples: NDArray[np.unsignedinteger[Any]], bits: int) -> Levels:
    """Convert samples of `bits` (1 to 16) bits to 8-bit levels, in the same shape.

    0 stays 0, and the largest possible sample becomes 255. Of more than eight bits the eight
    highest remain, and fewer bits are spread evenly. Raises FormError for samples above what
    `bits` can hold, or so far below it that they must have fewer bits than the file states.

    >>> eight_bits(np.array([[0, 1, 3]], np.uint8), bits=2).tolist()
    [[0, 85, 255]]
    """
    if bits == 8 and samples.dtype == np.uint8:
        return samples.astype(np.uint8, copy=False)
    largest, most = int(samples.max()), 2**bits - 1
    if largest > most:
        raise FormError(
            f"says that its samples have {bits} bits, and one of them is {largest:,}; {EXPORT}"
        )
    if bits <= 8:
        scaled = samples if bits == 8 else samples.astype(np.uint16) * 255 // most
        return scaled.astype(np.uint8, copy=False)
    levels: Levels = (samples >> (bits - 8)).astype(np.uint8)
    refuse_unfilled(levels, bits)
    return levels


def refuse_unfilled(levels: Levels, bits: int) -> None:
    """Raise FormError if samples of more than 8 bits stay in the lowest quarter of their range.

    `levels` are the samples' eight highest bits. A camera's 12 bits in a file that states 16 bits
    have a sixteenth of their brightness.
    """
    if (largest := int(levels.max())) < _DARK:
        raise FormError(
            f"its {bits}-bit samples use less than {(largest + 1) / 256:.0%} of their range, as "
            f"those of a camera with fewer bits do; stretch the range and {EXPORT}"
        )


def on_white(colours: Levels, alpha: Levels, kind: Alpha = "straight") -> Levels:
    """Lay `colours` (H, W, 3) on white by their `alpha` (H, W); the result is uint8 (H, W, 3).

    kind: whether the colours are already multiplied by alpha. Raises FormError if no pixel is
    opaque, as nobody can see such a picture.
    """
    if alpha.max() < 255:
        raise FormError(
            f"no pixel of it is opaque (alpha is {alpha.max()} of 255 at most), so it shows "
            f"nothing; {EXPORT} without alpha"
        )
    if alpha.min() == 255:
        return colours
    part = alpha[..., None].astype(np.uint32)
    shown = colours * (part if kind == "straight" else np.uint32(255))
    laid: Levels = np.minimum((shown + 255 * (255 - part) + 127) // 255, 255).astype(np.uint8)
    return laid


def picture(levels: Levels) -> Image.Image:
    """Make an RGB image of grey (H, W, 1) or RGB (H, W, 3) levels."""
    if levels.shape[-1] == 1:
        return Image.fromarray(levels[..., 0]).convert("RGB")
    return Image.fromarray(np.ascontiguousarray(levels))


def upright(image: Image.Image, orientation: int) -> Image.Image:
    """Turn the image as `orientation`, the tag 274 of TIFF and EXIF, says; unknown values do not.

    >>> upright(Image.new("RGB", (40, 20)), 6).size
    (20, 40)
    """
    turn = _UPRIGHT.get(orientation)
    return image if turn is None else image.transpose(turn)
