"""One image file -> one square of 8-bit RGB."""

import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from common.errors import DataError

FILTER = Image.Resampling.BICUBIC
_FORMATS = ("JPEG", "TIFF", "PNG", "BMP")
_GAP = 2
"""A JPEG is decoded at 1/2, 1/4 or 1/8 only where that leaves this many times the side."""

UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    EOFError,
    OverflowError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)
"""What Pillow raises for a file that is damaged, cut short, or not an image."""


def read_rgb(path: Path, draft: int | None = None) -> Image.Image:
    """The whole image as RGB; a JPEG may come smaller, but no side under `draft` times 2.

    16-bit grey is scaled to 8 bits; what is transparent is laid on white. Raises DataError: it
    cannot be read, is cut short, or has a kind of pixel that has no one meaning as a picture.
    """
    try:
        with Image.open(path, formats=_FORMATS) as image:
            if draft is not None:
                image.draft("RGB", (draft * _GAP, draft * _GAP))
            return _rgb(image)
    except UNREADABLE as error:
        raise DataError(f"{path}: cannot be read as an image ({error})") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Pillow's remarks on odd metadata are silenced; a picture of 90 Mpx or more is an error.

    Python's warning filters are shared by all threads: enter it once, around them.
    """
    with warnings.catch_warnings():
        silence()
        yield


def silence() -> None:
    """As `quiet`, for good: for a process that does nothing else."""
    warnings.simplefilter("ignore")
    warnings.simplefilter("error", Image.DecompressionBombWarning)


def square(image: Image.Image, side: int, field_px: float | None = None) -> Image.Image:
    """`image` as `side` x `side`.

    Without `field_px` the whole image is resized, whatever its shape. With it, the centred square
    of that many pixels is; where it reaches over the edge, the edge's median colour fills it.
    """
    if field_px is None:
        return image.resize((side, side), FILTER)
    width, height = image.size
    if field_px > min(width, height):
        image = _padded(image, int(field_px) + 2)
        width, height = image.size
    left, top = (width - field_px) / 2, (height - field_px) / 2
    return image.resize((side, side), FILTER, box=(left, top, left + field_px, top + field_px))


def _rgb(image: Image.Image) -> Image.Image:
    image.load()
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {image.mode}; save it as 8-bit RGB")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _padded(image: Image.Image, least: int) -> Image.Image:
    """`image` centred on the median colour of its edge, no side under `least` pixels."""
    size = (max(image.width, least), max(image.height, least))
    # The same parity as the image's, so that the centre stays where it was.
    size = (size[0] + (size[0] - image.width) % 2, size[1] + (size[1] - image.height) % 2)
    canvas = Image.new("RGB", size, _edge_colour(image))
    canvas.paste(image, ((size[0] - image.width) // 2, (size[1] - image.height) // 2))
    return canvas


def _edge_colour(image: Image.Image) -> tuple[int, int, int]:
    width, height = image.size
    rows = [(0, y, width, y + 1) for y in (0, height - 1)]
    columns = [(x, 0, x + 1, height) for x in (0, width - 1)]
    edge = b"".join(image.crop(box).tobytes() for box in rows + columns)
    red, green, blue = (sorted(edge[channel::3]) for channel in range(3))
    middle = len(red) // 2
    return red[middle], green[middle], blue[middle]
