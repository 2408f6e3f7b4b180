"""Reads DICOM as 8-bit RGB, with pydicom: pictures through a microscope, one in each file.

The reader takes only the picture's own attributes from the data set: no name, no date, no number.
"""

import logging
from collections.abc import Callable
from typing import Any, BinaryIO

import pydicom
from numpy.typing import NDArray
from PIL import Image
from pydicom import uid
from pydicom.filereader import read_file_meta_info
from pydicom.pixels.processing import apply_color_lut
from pydicom.pixels.utils import pixel_array

from client.data.decoding.formats import EXPORT, FormError, refuse_several
from client.data.decoding.samples import Levels, bounded, eight_bits, picture

_PICTURES = {
    uid.VLMicroscopicImageStorage,
    uid.VLSlideCoordinatesMicroscopicImageStorage,
    uid.VLWholeSlideMicroscopyImageStorage,
}
_DECODER = {
    uid.ImplicitVRLittleEndian: "",
    uid.ExplicitVRLittleEndian: "",
    uid.ExplicitVRBigEndian: "",
    uid.RLELossless: "pydicom",
    uid.JPEGBaseline8Bit: "pillow",
    uid.JPEG2000Lossless: "pillow",
    uid.JPEG2000: "pillow",
}
"""Transfer syntax -> the plug-in that decodes it, which bounds a picture as Pillow does. The
deflated syntax is not in it: nothing would bound the unpacked data set."""
_COLOURS = {
    "MONOCHROME1": 1,
    "MONOCHROME2": 1,
    "PALETTE COLOR": 1,
    "RGB": 3,
    "YBR_FULL": 3,
    "YBR_FULL_422": 3,
    "YBR_ICT": 3,
    "YBR_RCT": 3,
}
_WHOLE = "VOLUME"
"""Third value of a slide's ImageType for its cells; LABEL and OVERVIEW show the slide's label."""
_ATTRIBUTES = [
    "SOPClassUID",
    "ImageType",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "PlanarConfiguration",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "RedPaletteColorLookupTableDescriptor",
    "GreenPaletteColorLookupTableDescriptor",
    "BluePaletteColorLookupTableDescriptor",
    "RedPaletteColorLookupTableData",
    "GreenPaletteColorLookupTableData",
    "BluePaletteColorLookupTableData",
]

logging.getLogger("pydicom").setLevel(logging.CRITICAL)


def read_dicom(file: BinaryIO, look: Callable[[int, int], None]) -> Image.Image:
    """Read the one picture in `file`; call `look` with its width and height before decoding it.

    Raises:
        FormError: the data set is neither VL Microscopic, VL Slide-Coordinates Microscopic nor VL
            Whole Slide Microscopy; it has several frames; or its samples or transfer syntax are
            not read.
        Exception: whatever pydicom raises for a damaged file.
    """
    syntax = read_file_meta_info(file.name).TransferSyntaxUID
    if syntax not in _DECODER:
        raise FormError(f"is DICOM in the transfer syntax {syntax.name}; {EXPORT}")
    header = _read(file, _ATTRIBUTES, header=True)
    _refuse_kind(header)
    bounded(header.Columns, header.Rows)
    look(header.Columns, header.Rows)
    _refuse_samples(header, syntax)
    whole = _read(file, [*_ATTRIBUTES, "PixelData"], header=False)
    samples = pixel_array(whole, decoding_plugin=_DECODER[syntax])
    if samples.shape[:2] != (header.Rows, header.Columns):
        raise ValueError(f"its pixels are {samples.shape}")
    return picture(_levels(whole, samples))


def _read(file: BinaryIO, attributes: list[str], *, header: bool) -> pydicom.Dataset:
    file.seek(0)
    return pydicom.dcmread(file, stop_before_pixels=header, specific_tags=attributes)


def _refuse_kind(header: pydicom.Dataset) -> None:
    kind = header.SOPClassUID
    if kind not in _PICTURES:
        raise FormError(f"is DICOM, {kind.name}, and no picture through a microscope; {EXPORT}")
    refuse_several(int(header.get("NumberOfFrames") or 1), "frames")
    if kind == uid.VLWholeSlideMicroscopyImageStorage:
        part = list(header.get("ImageType") or ())[2:3]
        if part not in ([], [_WHOLE]):
            raise FormError(f"shows the {part[0]} of a slide, not its cells; {EXPORT}")


def _refuse_samples(header: pydicom.Dataset, syntax: uid.UID) -> None:
    colours = header.PhotometricInterpretation
    stored, taken = header.BitsStored, header.BitsAllocated
    if _COLOURS.get(colours) != header.SamplesPerPixel:
        raise FormError(f"its colours are {colours}, {header.SamplesPerPixel} a pixel; {EXPORT}")
    if taken not in (8, 16) or not 1 <= stored <= taken or header.PixelRepresentation:
        sign = "signed" if header.PixelRepresentation else "unsigned"
        raise FormError(f"its samples are {stored} bits, {sign}, in {taken}; {EXPORT}")
    if header.get("HighBit", stored - 1) != stored - 1:
        raise FormError(f"its samples of {stored} bits begin at bit {header.HighBit}; {EXPORT}")
    if stored > 8 and header.SamplesPerPixel > 1 and _DECODER[syntax] == "pillow":
        raise FormError(f"is colour of {stored} bits, {syntax.name}; {EXPORT}")


def _levels(whole: pydicom.Dataset, samples: NDArray[Any]) -> Levels:
    """Levels (H, W, 1 or 3) of pydicom's samples, in which YBR is RGB already."""
    colours = whole.PhotometricInterpretation
    if colours == "PALETTE COLOR":
        table = apply_color_lut(samples, whole)
        return eight_bits(table, 8 * table.dtype.itemsize)
    levels = eight_bits(samples, whole.BitsStored)
    if colours == "MONOCHROME1":
        levels = 255 - levels
    return levels if levels.ndim == 3 else levels[..., None]
