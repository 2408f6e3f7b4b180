"""The forms of picture file that are read, and the ones that are refused by their name."""

from os.path import splitext
from typing import BinaryIO, Literal

from common.errors import DataError

IMAGE_SUFFIXES = frozenset(
    {".tif", ".tiff", ".btf", ".tf8", ".png", ".apng", ".bmp", ".dib", ".webp", ".avif"}
    | {".jpg", ".jpeg", ".jpe", ".jfif", ".jif"}
    | {".jp2", ".j2k", ".jpf", ".jpx", ".j2c", ".jpc", ".dcm", ".dicom"}
)
"""What a file that may be read is called; what it holds is told by its first bytes."""

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
)
"""Offset and bytes by which a file that bears another's suffix is told."""
_TIFF = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
_DICOM_AT = 128
HEAD = 132
"""First bytes that tell all forms apart."""


class FormError(DataError):
    """A whole picture in a form that is not read, because it has no one meaning as a cell."""


def refused(name: str) -> str | None:
    """What a file that is called `name` is, where that is a picture that is never read."""
    return _NAMES.get(splitext(name)[1].lower())


def may_be_read(path: str) -> bool:
    """Whether a file is taken for a picture: by its name, or as DICOM, which often bears none."""
    suffix = splitext(path)[1].lower()
    if suffix in IMAGE_SUFFIXES:
        return True
    # An archive calls its files by numbers: IM000001, or 1.2.840.10008.5.
    if suffix and not suffix[1:].isdigit():
        return False
    try:
        with open(path, "rb") as file:
            return kind(file.read(HEAD)) == "dicom"
    except OSError:
        return False


def kind(head: bytes) -> Literal["tiff", "dicom", "bitmap"]:
    """Which reader a file is for that begins with these `HEAD` bytes."""
    if head.startswith(_TIFF):
        return "tiff"
    return "dicom" if head[_DICOM_AT:] == b"DICM" else "bitmap"


def refuse_named(file: BinaryIO) -> None:
    """Raise FormError where the beginning of the file tells a form that is not read."""
    file.seek(0)
    head = file.read(HEAD)
    for offset, beginning, name in _BEGINNINGS:
        if head[offset:].startswith(beginning):
            raise FormError(f"cannot be read as an image: it is {name}; {EXPORT}")


def refuse_several(pictures: int, what: str = "") -> None:
    """Raise FormError where a file holds more than one picture; `what` they are, where known."""
    if pictures > 1:
        said = f" ({what})" if what else ""
        raise FormError(
            f"holds {pictures:,} pictures{said}, of which none is known to be the cell: {EXPORT} "
            "(in Fiji: Image > Type > RGB Color, then save that)"
        )
