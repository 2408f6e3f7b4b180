"""One image file -> one square of 8-bit RGB."""

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
    """The whole image as RGB, upright; a JPEG may come smaller, but no side under `draft` times 2.

    Which forms are read, and by which rules, is in docs/pictures.md. Raises FormError for a whole
    picture that has no one meaning as that of a cell, and DataError for a file that is damaged, cut
    short, or no picture.
    """
    try:
        with open(path, "rb") as file:
            return _read(file, draft, look)
    except FormError as error:
        raise type(error)(f"{path}: {error}") from error
    except Exception as error:
        # A file that is damaged, or made to do harm, may make a reader stumble over anything.
        raise DataError(f"{path}: cannot be read as an image ({error})") from error


def _read(file: BinaryIO, draft: int | None, look: Look) -> Image.Image:
    form = kind(file.read(HEAD))
    file.seek(0)
    # Their readers are slow to import, and most labs have no use for them.
    if form == "tiff":
        from client.data.decoding.tiff import read_tiff

        return read_tiff(file, look)
    if form == "dicom":
        from client.data.decoding.dicom import read_dicom

        return read_dicom(file, look)
    return read_bitmap(file, draft, look)


@contextmanager
def quiet() -> Iterator[None]:
    """Pillow's remarks on odd metadata are silenced; a picture of 90 Mpx or more is an error.

    Python's warning filters are shared by all threads: enter it once, around them.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


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
