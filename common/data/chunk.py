"""A run of images -> squares of pixels at their place in the .npy."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from common.data.decode import read_rgb, square
from common.errors import DataError


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """How an image becomes a square of `side` pixels.

    Without `um_per_px` the whole image does. With it, the centred `field_um` x `field_um` does,
    so that cells of all microscopes come at one scale (MLL23: 25 um).
    """

    side: int
    um_per_px: float | None = None
    field_um: float = 25.0

    def __post_init__(self) -> None:
        if not 1 <= self.side <= 4096:
            raise DataError(f"side is {self.side}; expected 1 to 4096 pixels")
        if self.um_per_px is not None and not 1e-3 <= self.um_per_px <= 100:
            raise DataError(f"um_per_px is {self.um_per_px}; expected 0.001 to 100 um")
        if not 0.1 <= self.field_um <= 1e4:
            raise DataError(f"field_um is {self.field_um}; expected 0.1 to 10000 um")

    def read(self, path: Path) -> bytes:
        """The pixels of the square, row by row, RGB. Raises DataError: it cannot be read."""
        if self.um_per_px is None:
            return square(read_rgb(path, draft=self.side), self.side).tobytes()
        image, field_px = read_rgb(path), self.field_um / self.um_per_px
        if not max(image.size) / 256 <= field_px <= max(image.size) * 16:
            raise DataError(
                f"{path}: at um_per_px {self.um_per_px:g} its {image.width} x {image.height} px "
                f"span {max(image.size) * self.um_per_px:.3g} um, against a field of "
                f"{self.field_um:g} um; is um_per_px right?"
            )
        return square(image, self.side, field_px).tobytes()


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """Images that are neighbours in the array, and where their pixels go."""

    target: str
    offset: int
    """Of the first image's first byte in the file `target`."""
    sources: tuple[str, ...]

    def write(self, geometry: Geometry) -> str:
        """Decode and write; the digest of the pixels.

        Raises DataError naming all images of the chunk that cannot be read; OSError from the disk.
        """
        squares: list[bytes] = []
        faults: list[str] = []
        for source in self.sources:
            try:
                squares.append(geometry.read(Path(source)))
            except DataError as error:
                faults.append(str(error))
        if faults:
            advice = (
                "To find all such files: hemofed data check SOURCE. Mend them, take them out, or "
                "leave them out: hemofed data index SOURCE --skip-unreadable"
            )
            raise DataError("\n".join([*faults, advice]))
        pixels = b"".join(squares)
        with open(self.target, "r+b", buffering=0) as file:
            _write_all(file.fileno(), pixels, self.offset)
        return hashlib.blake2b(pixels, digest_size=16).hexdigest()


def _write_all(handle: int, content: bytes, at: int) -> None:
    left = memoryview(content)
    while left:
        written = os.pwrite(handle, left, at)
        left, at = left[written:], at + written
