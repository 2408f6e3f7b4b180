"""Samples as a file has them -> 8-bit RGB: depth, transparency, which way is up."""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from client.data.decoding.formats import EXPORT, FormError

Levels = NDArray[np.uint8]
Alpha = Literal["straight", "premultiplied"]

_DARK = 64
"""A grey value (0 to 255); a picture in transmitted light has a far lighter background."""

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
    """Raise FormError for more pixels than are ever decoded: Pillow's own bound, some 90 million.

    Called before room is taken, with what the file says of itself.
    """
    most = Image.MAX_IMAGE_PIXELS or 0
    if width < 1 or height < 1:
        raise ValueError(f"a picture of {width} x {height} px")
    if width * height > most:
        raise FormError(f"{width} x {height} px are more than the {most:,} that are read; {EXPORT}")


def eight_bits(samples: NDArray[np.unsignedinteger[Any]], bits: int) -> Levels:
    """Samples of `bits` (1 to 16) bits as 8-bit levels: 0 stays 0, the largest becomes 255.

    Of more than eight bits the eight highest are kept; fewer are spread evenly. Raises FormError:
    samples above what the bits can hold, or so far below it that they are of fewer bits than the
    file says.
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
    """Raise FormError where samples of more than 8 bits stay in the lowest quarter of their range.

    A camera's 12 bits, saved in 16 that the file calls 16, are a sixteenth of their brightness.
    """
    if (largest := int(levels.max())) < _DARK:
        raise FormError(
            f"its {bits}-bit samples use less than {(largest + 1) / 256:.0%} of their range, as "
            f"those of a camera with fewer bits do; stretch the range and {EXPORT}"
        )


def on_white(colours: Levels, alpha: Levels, kind: Alpha = "straight") -> Levels:
    """`colours` (H, W, 3) laid on white by their `alpha` (H, W).

    Raises FormError: no pixel is opaque, so there is no picture to be seen.
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
    """(H, W, 1) grey or (H, W, 3) RGB as an RGB image."""
    if levels.shape[-1] == 1:
        return Image.fromarray(levels[..., 0]).convert("RGB")
    return Image.fromarray(np.ascontiguousarray(levels))


def upright(image: Image.Image, orientation: int) -> Image.Image:
    """The image as the tag Orientation (274, of TIFF and EXIF) says that it is to be seen."""
    turn = _UPRIGHT.get(orientation)
    return image if turn is None else image.transpose(turn)
