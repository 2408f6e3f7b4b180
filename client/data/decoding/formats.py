"""The forms of picture files that hemofed reads, and those that it refuses by their suffix."""

import os
import re
from os.path import splitext
from typing import BinaryIO, Literal, NoReturn

from common.errors import DataError

IMAGE_SUFFIXES = frozenset(
    {".tif", ".tiff", ".btf", ".tf8", ".png", ".apng", ".bmp", ".dib", ".webp", ".avif"}
    | {".jpg", ".jpeg", ".jpe", ".jfif", ".jif"}
    | {".jp2", ".j2k", ".jpf", ".jpx", ".j2c", ".jpc", ".dcm", ".dicom"}
)
"""The suffixes of files that may be read; the first bytes tell what a file holds."""

EXPORT = "export one picture of one cell as 8-bit RGB TIFF or PNG"

_REFUSED = {
    "Zeiss CZI": (".czi",),
    "Zeiss LSM": (".lsm",),
    "Zeiss ZVI": (".zvi",),
    "Leica LIF": (".lif", ".xlef", ".lof"),
    "Leica SCN": (".scn",),
    "Nikon ND2": (".nd2",),
    "Olympus VSI": (".vsi", ".oib", ".oif", ".oir", ".ets"),
    "MetaMorph STK": (".stk",),
    "Imaris": (".ims",),
    "Aperio SVS": (".svs",),
    "Hamamatsu NDPI": (".ndpi", ".vms", ".vmu"),
    "Mirax": (".mrxs",),
    "Ventana BIF": (".bif",),
    "Philips iSyntax": (".isyntax",),
    "HDF5": (".h5", ".hdf5"),
    "JPEG XL": (".jxl",),
    "HEIF": (".heic", ".heif", ".hif"),
    "GIF": (".gif",),
    "JPEG XR": (".jxr", ".wdp", ".hdp"),
    "camera raw": (".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2"),
    "Photoshop": (".psd", ".psb"),
    "FITS": (".fits", ".fit"),
    "Netpbm": (".ppm", ".pgm", ".pnm", ".pbm"),
    "another picture format": (".tga", ".ico", ".icns", ".svg", ".eps", ".exr", ".pcx", ".dds"),
    "PDF": (".pdf",),
}
_NAMES = {suffix: name for name, suffixes in _REFUSED.items() for suffix in suffixes}

_BEGINNINGS = (
    (0, b"ZISRAWFILE", "Zeiss CZI"),
    (0, b"\xd0\xcf\x11\xe0", "Olympus or Zeiss ZVI (an OLE container)"),
    (0, b"\x70\x00\x00\x00", "Leica LIF"),
    (0, b"\xda\xce\xbe\x0a", "Nikon ND2"),
    (0, b"\x89HDF", "HDF5"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"\x00\x00\x00\x0cJXL ", "JPEG XL"),
    (4, b"ftyphe", "HEIF"),
    (4, b"ftypmif1", "HEIF"),
    (0, b"GIF8", "GIF"),
    (0, b"II\xbc", "JPEG XR"),
    (0, b"8BPS", "Photoshop"),
    (0, b"SIMPLE  =", "FITS"),
    (0, b"%PDF", "PDF"),
    (0, b"\x02\x00\x00\x00UL", "DICOM without its preamble"),
    (0, b"\x08\x00\x05\x00", "DICOM without its preamble"),
    (0, b"\x08\x00\x08\x00", "DICOM without its preamble"),
    (0, b"\x08\x00\x16\x00", "DICOM without its preamble"),
)
"""Offset, bytes and name of forms that are not read, for files with the wrong suffix."""
_NETPBM = re.compile(rb"P[1-7]\s")
_TIFF = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
_BITMAPS = (
    (0, b"\xff\xd8\xff"),
    (0, b"\x89PNG\r\n"),
    (8, b"WEBP"),
    (4, b"ftypavif"),
    (4, b"jP  \r\n"),
    (0, b"\xff\x4f\xff\x51"),
)
"""Offset and bytes that mark a picture, whatever the file's name."""
_DICOM_AT = 128
MISNAMED = "a picture by its first bytes and not by its name; rename it, or take it out"
"""The reason for passing over a picture that could be read."""
_OF_TEXT = frozenset(b"\t\n\r\f" + bytes(range(0x20, 0x7F)) + bytes(range(0x80, 0x100)))
HEAD = 132
"""How many first bytes of a file tell all forms apart."""


class FormError(DataError):
    """An undamaged picture that is not read: it has no one meaning as a picture of a cell."""


def refused(name: str) -> str | None:
    """The form of the file `name`, by its suffix, if that form is never read; else None.

    >>> refused("slide.CZI"), refused("cell.png")
    ('Zeiss CZI', None)
    """
    return _NAMES.get(splitext(name)[1].lower())


def why_no_picture(path: str) -> str:
    """Say why a file does not count as a picture; "" if it counts.

    A file counts by its suffix, and DICOM by its first bytes: an archive names DICOM files
    IM000001, 1.2.840.10008.5 or anything. A picture of another form without a picture's suffix may
    be a backup or a thumbnail, so it does not count, and the reason is `MISNAMED`.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        return "neither a file nor a folder"
    if splitext(path)[1].lower() in IMAGE_SUFFIXES:
        return ""
    try:
        with open(path, "rb") as file:
            head = file.read(HEAD)
    except OSError:
        return "not an image"
    form = kind(head)
    if form == "dicom":
        return ""
    if form == "tiff" or _begins_as_bitmap(head):
        return MISNAMED
    return "not an image"


def _begins_as_bitmap(head: bytes) -> bool:
    bmp = head.startswith(b"BM") and head[6:10] == bytes(4)
    return bmp or any(head[at:].startswith(beginning) for at, beginning in _BITMAPS)


def kind(head: bytes) -> Literal["tiff", "dicom", "bitmap"]:
    """The reader for a file whose first `HEAD` bytes are `head`."""
    if head.startswith(_TIFF):
        return "tiff"
    return "dicom" if head[_DICOM_AT:] == b"DICM" else "bitmap"


def refuse_unknown(file: BinaryIO) -> NoReturn:
    """Raise an error for a file that is not read, with what its first bytes tell about it.

    Raises:
        FormError: a picture in a form that is not read.
        DataError: no picture, or a damaged one.
    """
    file.seek(0)
    head = file.read(HEAD)
    for offset, beginning, name in _BEGINNINGS:
        if head[offset:].startswith(beginning):
            raise FormError(f"cannot be read as an image: it is {name}; {EXPORT}")
    if _NETPBM.match(head):
        raise FormError(f"cannot be read as an image: it is Netpbm; {EXPORT}")
    if _begins_as_bitmap(head) or head.startswith(b"BM"):
        raise DataError("it is damaged at its beginning, or cut short")
    if not head.strip(b"\0"):
        raise DataError("it is empty" if not head else "it begins with nothing but zero bytes")
    if all(byte in _OF_TEXT for byte in head):
        raise DataError("it is text")
    raise DataError("it begins as no picture does that is read")


def refuse_several(pictures: int, what: str = "") -> None:
    """Raise FormError if a file holds more than one picture. what: what they are, if known."""
    if pictures > 1:
        said = f" ({what})" if what else ""
        raise FormError(
            f"holds {pictures:,} pictures{said}, of which none is known to be the cell: {EXPORT} "
            "(in Fiji: Image > Type > RGB Color, then save that)"
        )
