"""Reads an image file as 8-bit RGB, and makes a square of it."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from client.data.decoding.bitmap import read_bitmap
from client.data.decoding.formats import HEAD, FormError, kind
from common.errors import DataError

FILTER = Image.Resampling.BICUBIC

Look = Callable[[int, int], None]
"""Called with a picture's width and height before it is decoded; raises DataError to refuse it."""


def _any_size(width: int, height: int) -> None:
    pass


def read_rgb(path: Path, draft: int | None = None, look: Look = _any_size) -> Image.Image:
    """Read a whole picture as an upright RGB image.

    docs/pictures.md says which forms are read, and by which rules.

    Args:
        path: the file.
        draft: a JPEG may come smaller, but no side under `draft` times 2 pixels; None: full size.
        look: called with the picture's width and height before it is decoded.

    Raises:
        FormError: an undamaged picture that has no one meaning as a picture of a cell, or that
            `look` refuses with this error or a subclass, which is kept.
        DataError: the file is damaged, cut short or no picture.
    """
    try:
        with open(path, "rb") as file:
            return _read(file, draft, look)
    except FormError as error:
        raise type(error)(f"{path}: {error}") from error
    except Exception as error:
        # A damaged or malicious file may make a reader raise anything.
        raise DataError(f"{path}: cannot be read as an image ({error})") from error


def _read(file: BinaryIO, draft: int | None, look: Look) -> Image.Image:
    form = kind(file.read(HEAD))
    file.seek(0)
    # These readers are slow to import, and most labs do not need them.
    if form == "tiff":
        from client.data.decoding.tiff import read_tiff

        return read_tiff(file, look)
    if form == "dicom":
        from client.data.decoding.dicom import read_dicom

        return read_dicom(file, look)
    return read_bitmap(file, draft, look)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence Pillow's warnings on odd metadata, but turn the one on a huge picture into an error.

    A picture is huge above `Image.MAX_IMAGE_PIXELS`, about 90 Mpx. All threads share Python's
    warning filters, so enter this context once, around all threads.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def square(image: Image.Image, side: int, field_px: float | None = None) -> Image.Image:
    """Resize `image`, RGB, to `side` x `side` pixels.

    Without `field_px` the result shows the whole image, whatever its shape. With it, the result
    shows the centred square of `field_px` x `field_px` pixels; beyond the image's edge it has the
    median colour of the edge.

    >>> square(Image.new("RGB", (40, 20), "white"), 8, field_px=30).size
    (8, 8)
    """
    if field_px is None:
        return image.resize((side, side), FILTER)
    width, height = image.size
    if field_px > min(width, height):
        image = _padded(image, int(field_px) + 2)
        width, height = image.size
    left, top = (width - field_px) / 2, (height - field_px) / 2
    return image.resize((side, side), FILTER, box=(left, top, left + field_px, top + field_px))


def _padded(image: Image.Image, least: int) -> Image.Image:
    """`image` in the centre of a canvas with no side under `least` pixels.

    The canvas has the median colour of the image's edge.
    """
    size = (max(image.width, least), max(image.height, least))
    # The canvas has the parity of the image, so that the centre stays in its place.
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
