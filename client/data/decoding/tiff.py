"""Reads TIFF as 8-bit RGB, with tifffile; it follows a tag, or refuses the file with a reason."""

import io
import logging
import math
import re
from collections.abc import Callable, Iterator
from enum import IntEnum
from typing import Any, BinaryIO

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image
from tifffile import COMPRESSION, EXTRASAMPLE, PHOTOMETRIC, SAMPLEFORMAT

from client.data.decoding.formats import EXPORT, FormError, refuse_several
from client.data.decoding.samples import (
    Alpha,
    Levels,
    bounded,
    eight_bits,
    on_white,
    picture,
    upright,
)

_COLOURS: dict[int, int] = {
    PHOTOMETRIC.MINISWHITE: 1,
    PHOTOMETRIC.MINISBLACK: 1,
    PHOTOMETRIC.PALETTE: 1,
    PHOTOMETRIC.RGB: 3,
    PHOTOMETRIC.YCBCR: 3,
}
"""Colours -> how many samples of a pixel are its colour."""
_LOSSLESS = {
    COMPRESSION.NONE,
    COMPRESSION.LZW,
    COMPRESSION.ADOBE_DEFLATE,
    COMPRESSION.DEFLATE,
    COMPRESSION.PACKBITS,
    COMPRESSION.LZMA,
    COMPRESSION.ZSTD,
}
"""Compressions whose decoders never write more than the size of a strip or tile."""
_PRIVATE = {
    33445: "Molecular Dynamics GEL",
    33628: "MetaMorph STK",
    33629: "MetaMorph STK",
    34361: "Olympus FluoView",
    34412: "Zeiss LSM",
}
"""Private tags of forms that store pictures, or a scale of grey, in ways unknown to TIFF."""
_NOT_THE_PICTURE = 0b101
"""The bits of NewSubfileType that mark a smaller copy, or the mask, of another page."""
_MOST_PAGES = 64
"""Most pages that are counted."""
_MAX_SAMPLE_VALUE = 281
_ORIENTATION = 274
_ALPHA: dict[int, Alpha] = {
    EXTRASAMPLE.ASSOCALPHA: "premultiplied",
    EXTRASAMPLE.UNASSALPHA: "straight",
}

# tifffile logs a line for each file with odd tags.
logging.getLogger("tifffile").setLevel(logging.CRITICAL)


def read_tiff(file: BinaryIO, look: Callable[[int, int], None]) -> Image.Image:
    """Read the one picture in `file`; call `look` with its width and height before decoding it.

    Raises:
        FormError: the file has several pictures, or one that is not read: it is not grey, palette
            or RGB of 1 to 16 bits, say, or has another compression.
        ValueError: a strip or tile is missing or cut short.
        Exception: whatever tifffile raises for a damaged file.
    """
    with tifffile.TiffFile(file) as tiff:
        page = _only_page(tiff)
        bounded(page.imagewidth, page.imagelength)
        look(page.imagewidth, page.imagelength)
        bits = _depth(page)
        _refuse_layout(page)
        _refuse_holes(page, tiff.filehandle.size)
        samples = page.asarray(squeeze=False, maxworkers=1)
        # (planes, 1, H, W, samples): either the first or the last axis counts the samples.
        samples = samples[:, 0].transpose(1, 2, 0, 3).reshape(*samples.shape[2:4], -1)
        levels = _rgb(page, samples, bits)
        return upright(picture(levels), int(page.tags.valueof(_ORIENTATION, 1)))


def _only_page(tiff: tifffile.TiffFile) -> tifffile.TiffPage:
    """The page with the picture. Pages marked as smaller copies of it, or masks, do not count.

    Raises ValueError for a file without a picture, and FormError for one with several.
    """
    pages = [page for page in _pages(tiff) if not page.subfiletype & _NOT_THE_PICTURE]
    if not pages:
        raise ValueError("it holds no picture")
    first = pages[0]
    text = first.description or ""
    refuse_several(len(pages), _stack(text))
    for tag, name in _PRIVATE.items():
        if tag in first.tags:
            raise FormError(f"is {name}; {EXPORT}")
    _refuse_planes(text, first.samplesperpixel)
    return first


def _pages(tiff: tifffile.TiffFile) -> Iterator[tifffile.TiffPage]:
    """Yield each page once, also where a page leads back to an earlier one."""
    seen: set[int] = set()
    for page in tiff.pages:
        if page.offset in seen or not isinstance(page, tifffile.TiffPage):
            return
        seen.add(page.offset)
        if len(seen) > _MOST_PAGES:
            refuse_several(len(seen), "or more")
        yield page


def _stack(text: str) -> str:
    """What the pages are, by ImageJ's or OME's description; "" if it does not tell.

    >>> _stack("ImageJ=1.53\\nimages=6\\nchannels=2\\nslices=3\\n")
    '2 channels, 3 slices'
    """
    if text.startswith("ImageJ="):
        found = re.findall(r"(?m)^(channels|slices|frames)=(\d+)", text)
    else:
        names = {"C": "channels", "Z": "slices", "T": "frames"}
        found = [(names[axis], size) for axis, size in re.findall(r'\bSize([CZT])="(\d+)"', text)]
    return ", ".join(f"{size} {name}" for name, size in found if int(size) > 1)


def _refuse_planes(text: str, samples: int) -> None:
    """Raise FormError if the description of the only page tells of further pictures.

    ImageJ may write a large stack behind one page, and OME spreads channels over files.
    """
    for number in re.findall(r"(?m)^images=(\d+)", text) if text.startswith("ImageJ=") else ():
        refuse_several(int(number), _stack(text))
    for pixels in re.findall(r"<(?:\w+:)?Pixels\b[^>]*>", text):
        sizes = [int(size) for size in re.findall(r'\bSize[CZT]="(\d+)"', pixels)]
        if sizes and math.prod(sizes) != samples:
            refuse_several(max(2, math.prod(sizes)), f"in all its files: {_stack(pixels)}")


def _depth(page: tifffile.TiffPage) -> int:
    """The bits that a sample uses: fewer than its place in the file has, if the file says so.

    Raises FormError for samples that are not unsigned, or have more than 16 bits.
    """
    bits = page.bitspersample
    if page.sampleformat != SAMPLEFORMAT.UINT or not isinstance(bits, int) or bits > 16:
        said = _name(SAMPLEFORMAT, page.sampleformat)
        raise FormError(f"its samples are of {bits} bits, {said}; {EXPORT}")
    stated = re.search(r'\bSignificantBits="(\d+)"', page.description or "")
    if stated and 1 <= int(stated[1]) <= bits:
        return int(stated[1])
    largest = page.tags.valueof(_MAX_SAMPLE_VALUE, None)
    # The tag may also hold the picture's largest sample: only all ones stand for a depth.
    most = np.max(largest) if largest is not None else 0
    fewer = int(most).bit_length()
    return fewer if 8 < fewer < bits and most == 2**fewer - 1 else bits


def _refuse_layout(page: tifffile.TiffPage) -> None:
    colours = _COLOURS.get(page.photometric)
    kind = _name(PHOTOMETRIC, page.photometric)
    jpeg = page.compression == COMPRESSION.JPEG
    if colours is None or (page.photometric == PHOTOMETRIC.YCBCR and not jpeg):
        raise FormError(f"its colours are {kind}; {EXPORT}")
    if page.compression not in _LOSSLESS and not jpeg:
        raise FormError(f"is a TIFF compressed as {_name(COMPRESSION, page.compression)}; {EXPORT}")
    if page.imagedepth != 1:
        raise FormError(f"is a volume of {page.imagedepth} slices; {EXPORT}")
    if not 0 <= page.samplesperpixel - colours <= 1:
        raise FormError(f"has {page.samplesperpixel} samples a pixel for {kind}; {EXPORT}")
    if page.is_tiled:
        bounded(page.tilewidth, page.tilelength * page.tiledepth)


def _name(numbers: type[IntEnum], number: int) -> str:
    try:
        return numbers(number).name
    except ValueError:
        return str(number)


def _refuse_holes(page: tifffile.TiffPage, size: int) -> None:
    """Raise ValueError if a strip or tile is missing, which tifffile would fill with black."""
    parts = list(zip(page.dataoffsets, page.databytecounts, strict=True))
    if len(parts) < math.prod(page.chunked):
        raise ValueError("strips or tiles are missing")
    for offset, count in parts:
        if not (offset > 0 and 0 < count <= size - offset):
            raise ValueError("a strip or tile is missing or cut short")
    if page.compression == COMPRESSION.JPEG:
        for offset, count in parts:
            page.parent.filehandle.seek(offset)
            _refuse_wrong_jpeg(page.parent.filehandle.read(count), page)


def _refuse_wrong_jpeg(part: bytes, page: tifffile.TiffPage) -> None:
    """Raise ValueError for a strip or tile whose JPEG is cut short or larger than the TIFF says.

    The decoder allocates the memory that the JPEG asks for, and fills a missing end with grey.
    """
    if not part.rstrip(b"\x00").endswith(b"\xff\xd9"):
        raise ValueError("a strip or tile is cut short")
    with Image.open(io.BytesIO(part), formats=("JPEG",)) as jpeg:
        width = page.tilewidth if page.is_tiled else page.imagewidth
        length = page.tilelength if page.is_tiled else page.imagelength
        if jpeg.width > width or jpeg.height > length:
            raise ValueError(f"a strip or tile of {jpeg.width} x {jpeg.height} px")


def _rgb(page: tifffile.TiffPage, samples: NDArray[Any], bits: int) -> Levels:
    colours = _COLOURS[page.photometric]
    if page.photometric == PHOTOMETRIC.PALETTE:
        levels: Levels = _palette(page)[samples[..., 0]]
    else:
        levels = eight_bits(samples[..., :colours], bits)
    if page.photometric == PHOTOMETRIC.MINISWHITE:
        levels = 255 - levels
    if samples.shape[-1] == colours:
        return levels
    return _without_alpha(page, levels, samples[..., colours], bits)


def _palette(page: tifffile.TiffPage) -> Levels:
    """Colours (2^bits, 3). TIFF's tables have 16 bits, but some writers fill only 8."""
    table = np.asarray(page.colormap).T
    eight: Levels = (table >> 8 if table.max() > 255 else table).astype(np.uint8)
    return eight


def _without_alpha(
    page: tifffile.TiffPage, levels: Levels, more: NDArray[Any], bits: int
) -> Levels:
    kind = page.extrasamples[0] if page.extrasamples else EXTRASAMPLE.UNSPECIFIED
    if more.min() == 2**bits - 1:
        return levels
    if kind not in _ALPHA:
        raise FormError(f"has one sample a pixel more than its colours, of no said use; {EXPORT}")
    alpha = more if bits == 8 else (more.astype(np.uint32) * 255 // (2**bits - 1)).astype(np.uint8)
    return on_white(np.broadcast_to(levels, (*alpha.shape, 3)), alpha, _ALPHA[kind])
