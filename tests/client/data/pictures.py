"""Picture files of all forms, made for tests, and the pixels that a true reader finds in them."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom import uid
from pydicom.dataset import FileMetaDataset

Array = NDArray[Any]
HEIGHT, WIDTH = 24, 32


def colours(bits: int = 8) -> Array:
    """(24, 32, 3): three channels that differ in each place and reach from 0 to all ones."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    parts = (x / (WIDTH - 1), y / (HEIGHT - 1), 1 - x * y / ((WIDTH - 1) * (HEIGHT - 1)))
    return np.stack([np.round(part * (2**bits - 1)) for part in parts], -1).astype(
        np.uint8 if bits <= 8 else np.uint16
    )


def grey(bits: int = 8) -> Array:
    """(24, 32): from 0 to all ones."""
    return colours(bits)[..., 0]


def eight(samples: Array, bits: int) -> Array:
    """The rule of the documentation: the eight highest bits; fewer are spread."""
    wide = samples.astype(np.int64)
    return wide // 2 ** (bits - 8) if bits >= 8 else wide * 255 // (2**bits - 1)


def as_rgb(levels: Array) -> Array:
    """A grey picture as the RGB of the same grey."""
    return np.repeat(levels[..., None], 3, axis=-1)


def packed_tiff(path: Path, samples: Array, bits: int) -> None:
    """A grey TIFF written by hand whose samples have `bits` bits, each row from a new byte on."""
    height, width = samples.shape
    places = (samples[..., None].astype(np.int64) >> np.arange(bits)[::-1]) & 1
    data = np.packbits(places.reshape(height, -1).astype(np.uint8), axis=1).tobytes()
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: 1, 277: 1, 278: height}
    start = 8 + 2 + 12 * (len(tags) + 2) + 4
    tags |= {273: start, 279: len(data)}
    entries = b"".join(struct.pack("<HHII", code, 4, 1, tags[code]) for code in sorted(tags))
    header = b"II*\0" + struct.pack("<IH", 8, len(tags))
    path.write_bytes(header + entries + struct.pack("<I", 0) + data)


def dicom(
    path: Path,
    pixels: Array | list[bytes],
    *,
    photometric: str = "RGB",
    stored: int = 8,
    syntax: uid.UID = uid.ExplicitVRLittleEndian,
    kind: uid.UID = uid.VLMicroscopicImageStorage,
    frames: int = 1,
    shape: tuple[int, int] = (HEIGHT, WIDTH),
    **attributes: Any,
) -> None:
    """A DICOM file: of samples as they are, or of compressed frames as they are."""
    whole = pydicom.Dataset()
    whole.file_meta = FileMetaDataset()
    whole.file_meta.TransferSyntaxUID = syntax
    whole.file_meta.MediaStorageSOPClassUID = kind
    whole.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    whole.SOPClassUID, whole.SOPInstanceUID = kind, "1.2.3"
    whole.PatientName = "Doe^Jane"
    whole.Rows, whole.Columns = shape
    whole.SamplesPerPixel = 1 if photometric.startswith(("MONO", "PALETTE")) else 3
    whole.PhotometricInterpretation = photometric
    whole.NumberOfFrames = frames
    if whole.SamplesPerPixel == 3:
        whole.PlanarConfiguration = 0
    whole.BitsStored, whole.HighBit = stored, stored - 1
    whole.BitsAllocated = 8 if stored <= 8 else 16
    whole.PixelRepresentation = 0
    if isinstance(pixels, list):
        whole.PixelData = pydicom.encaps.encapsulate(pixels)
    else:
        whole.PixelData = np.ascontiguousarray(pixels).tobytes()
    for name, value in attributes.items():
        setattr(whole, name, value)
    whole["PixelData"].VR = "OB" if isinstance(pixels, list) or stored <= 8 else "OW"
    whole.save_as(path, enforce_file_format=True)
