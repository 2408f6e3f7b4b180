"""Decodes a run of images into squares, and writes them to their place in the .npy."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from client.data.decoding.image import read_rgb, square
from client.data.scale import ScaleError, refuse_implausible
from common.errors import DataError
from common.field_of_view import FIELD_UM, PICTURE_UM


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """How an image becomes a square of `side` x `side` pixels.

    Without `um_per_px` the square shows the whole image. With it, the square shows the centred
    `field_um` x `field_um`, so that the cells of all microscopes have one scale.

    Raises DataError for a value out of its bounds.
    """

    side: int
    """1 to 4,096 pixels."""
    um_per_px: float | None = None
    """Scale of the image, micrometres a pixel; None: not known."""
    field_um: float = FIELD_UM
    """Micrometres along an edge of the square."""

    def __post_init__(self) -> None:
        if not 1 <= self.side <= 4096:
            raise DataError(f"side is {self.side}; expected 1 to 4096 pixels")
        if self.um_per_px is not None and not 1e-3 <= self.um_per_px <= 100:
            raise DataError(f"um_per_px is {self.um_per_px}; expected 0.001 to 100 um")
        least, most = PICTURE_UM
        if not least <= self.field_um <= most:
            raise DataError(f"field_um is {self.field_um}; expected {least:g} to {most:g} um")

    def read(self, path: Path) -> bytes:
        """Return the pixels of the square, row by row, RGB: side * side * 3 bytes.

        Raises:
            ScaleError: the scale cannot be right for this picture.
            DataError: the file cannot be read, or is no picture of one cell.
        """
        if self.um_per_px is None:
            return square(read_rgb(path, self.side, self._look), self.side).tobytes()
        # Rounded, so that a picture as wide as the field needs no padding.
        field_px = round(self.field_um / self.um_per_px, 6)
        return square(read_rgb(path, look=self._look), self.side, field_px).tobytes()

    def _look(self, width: int, height: int) -> None:
        refuse_implausible(width, height, self.um_per_px)


@dataclass(frozen=True, kw_only=True)
class PixelChunk:
    """A run of images, and the place of their pixels."""

    target: str
    """The .npy file, which must exist."""
    offset: int
    """The place of the first image's first byte in `target`, in bytes."""
    sources: tuple[str, ...]
    """The image files, whose squares follow one another in `target`."""

    def write(self, geometry: Geometry) -> str:
        """Decode the images, write their squares, and return a digest (hex) of the pixels.

        Raises:
            ScaleError: the scale cannot be right for one of the images; the first one is named.
            DataError: images cannot be read; all such images of the chunk are named.
            OSError: the disk does not take the pixels.
        """
        squares: list[bytes] = []
        faults: dict[str, list[str]] = {}
        for source in self.sources:
            try:
                squares.append(geometry.read(Path(source)))
            except ScaleError:
                raise
            except DataError as error:
                faults.setdefault(str(error).removeprefix(f"{source}: "), []).append(source)
        if faults:
            raise DataError(_said(faults))
        pixels = b"".join(squares)
        with open(self.target, "r+b", buffering=0) as file:
            _write_all(file.fileno(), pixels, self.offset)
        return hashlib.blake2b(pixels, digest_size=16).hexdigest()


def _said(faults: Mapping[str, Sequence[str]]) -> str:
    """The faults (reason -> images) in words: each reason once, with the names of its images."""
    lines = []
    for reason, (first, *others) in faults.items():
        lines.append(f"{first}: {reason}")
        if others:
            lines.append(f"  the same: {', '.join(others)}")
    lines.append(
        "To find all such files: hemofed data check SOURCE. Mend them, take them out, or "
        "leave them out: hemofed data index SOURCE --skip-unreadable"
    )
    return "\n".join(lines)


def _write_all(handle: int, content: bytes, at: int) -> None:
    left = memoryview(content)
    while left:
        written = os.pwrite(handle, left, at)
        left, at = left[written:], at + written
