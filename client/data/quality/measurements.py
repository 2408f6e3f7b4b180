"""The measurements of each image: about a kilobyte, never the image itself."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from client.data.decoding.formats import FormError
from client.data.decoding.image import quiet, read_rgb
from client.data.quality.colour import lab
from client.data.quality.nuclei import count_nuclei
from client.data.quality.perceptual_hash import THUMBNAIL, hashes
from client.data.scale import ScaleError, refuse_implausible
from common.errors import DataError
from common.process_pool import process_pool

WORKERS = 2
IN_PROCESS = 256
"""Fewer images than this are measured in this process: starting others would take longer."""
_CHUNK = 32
_SIDE = 64

RECORD = np.dtype(
    [
        ("size", np.int32, 2),
        ("digest", np.uint64, 2),
        ("hashes", np.uint64, 8),
        ("thumbnail", np.uint8, (THUMBNAIL, THUMBNAIL, 3)),
        ("nucleus", np.float32, 3),
        ("background", np.float32, 3),
        ("lightness", np.float32),
        ("nuclei", np.uint8),
        ("sharpness", np.float32),
    ]
)
"""The measurements of one image.

- size: width and height in px.
- digest: the first 128 bits of the SHA-256 of the file's bytes.
- hashes: perceptual hashes of the picture in its 8 orientations.
- thumbnail: the picture as 16 x 16 RGB.
- nucleus, background: median Lab of the pixels that absorb most and least green.
- lightness: mean L, 0 to 100.
- nuclei: how many separate nuclei the picture shows.
- sharpness: log10 of the Laplacian's variance over the variance of the grey levels.
"""

Records = NDArray[np.void]
"""(N,) of type `RECORD`."""
Progress = Callable[[int, int], None]
"""Called with the images done and the images in all."""


@dataclass(frozen=True)
class Measured:
    """The measurements of a listing, one row for each image."""

    records: Records
    """(N,), zeros for an image that was not read."""
    errors: dict[int, str]
    """Row -> why the image could not be read: it is damaged, cut short, or no picture."""
    refused: dict[int, str] = field(default_factory=dict)
    """Row -> why an undamaged picture is refused: it has no one meaning as a picture of a cell."""
    scaled: set[int] = field(default_factory=set)
    """The refused rows that do not fit the given scale; the picture or the scale is wrong."""

    @property
    def readable(self) -> NDArray[np.int64]:
        """The rows that were measured, in ascending order: int64 (M,)."""
        good = np.ones(len(self.records), dtype=bool)
        good[[*self.errors, *self.refused]] = False
        return np.flatnonzero(good)


def measure_all(
    paths: Sequence[str], progress: Progress | None = None, um_per_px: float | None = None
) -> Measured:
    """Measure every image, with `WORKERS` processes if there are `IN_PROCESS` images or more.

    Order and result do not depend on the number of processes. Memory grows by one `RECORD` an
    image.

    Args:
        paths: the image files, one for each row of the result.
        progress: called after each image.
        um_per_px: the scale of the pictures, micrometres a pixel; None: not known. What
            `data index` refuses at this scale is refused here too.
    """
    measured = Measured(np.zeros(len(paths), dtype=RECORD), {})
    for row, result in enumerate(_results(paths, um_per_px)):
        if isinstance(result, bytes):
            measured.records[row] = np.frombuffer(result, dtype=RECORD)[0]
        else:
            (measured.refused if result.whole else measured.errors)[row] = result.reason
            if result.scale:
                measured.scaled.add(row)
        if progress:
            progress(row + 1, len(paths))
    return measured


@dataclass(frozen=True)
class Unread:
    """Why an image was not read."""

    reason: str
    """The reason in words, without the file's name."""
    whole: bool
    """Whether the picture is undamaged, and refused."""
    scale: bool = False
    """Whether it is refused because it does not fit the given scale."""


def _results(paths: Sequence[str], um_per_px: float | None) -> Iterator[bytes | Unread]:
    if len(paths) < IN_PROCESS:
        with quiet():
            yield from (measure(Path(path), um_per_px) for path in paths)
        return
    with process_pool(WORKERS) as pool:
        chunks = [paths[start : start + _CHUNK] for start in range(0, len(paths), _CHUNK)]
        for chunk in pool.map(partial(_measure_chunk, um_per_px=um_per_px), chunks):
            yield from chunk


def _measure_chunk(paths: Iterable[str], um_per_px: float | None) -> list[bytes | Unread]:
    with quiet():
        return [measure(Path(path), um_per_px) for path in paths]


def measure(path: Path, um_per_px: float | None = None) -> bytes | Unread:
    """Return the image's `RECORD` as bytes, or why there is none; `um_per_px` as `measure_all`."""
    try:
        content = path.read_bytes()
        image = read_rgb(path, look=partial(refuse_implausible, um_per_px=um_per_px))
    except OSError as error:
        return Unread(f"cannot be opened ({error.strerror})", whole=False)
    except DataError as error:
        reason = str(error).removeprefix(f"{path}: ")
        return Unread(reason, isinstance(error, FormError), isinstance(error, ScaleError))
    record = np.zeros((), dtype=RECORD)
    record["size"] = image.size
    digest = hashlib.sha256(content).digest()[:16]
    record["digest"] = np.frombuffer(digest, dtype=np.uint64)
    record["hashes"] = hashes(image)
    small = (THUMBNAIL, THUMBNAIL)
    record["thumbnail"] = np.asarray(image.resize(small, Image.Resampling.BOX))
    _colours(record, image)
    record["sharpness"] = sharpness(image)
    return record.tobytes()


def _colours(record: NDArray[np.void], image: Image.Image) -> None:
    """Measure the colours: a white cell's nucleus absorbs most green, and plasma least."""
    small = np.asarray(image.resize((_SIDE, _SIDE), Image.Resampling.BOX))
    record["nuclei"] = min(count_nuclei(small), 255)
    pixels = small.reshape(-1, 3)
    order = np.argsort(pixels[:, 1], kind="stable")
    values = lab(pixels)
    record["nucleus"] = np.median(values[order[: len(order) * 5 // 100]], axis=0)
    record["background"] = np.median(values[order[len(order) * 75 // 100 :]], axis=0)
    record["lightness"] = values[:, 0].mean()


def sharpness(image: Image.Image) -> float:
    """Return log10 of the variance of the Laplacian over the variance of the grey levels.

    This is the measure of Pech-Pacheco et al. 2000 (ICPR, "Diatom autofocusing in brightfield
    microscopy"), made independent of contrast. An image without any detail gives -9.
    """
    grey = np.asarray(image.convert("L"), dtype=np.float32)
    if min(grey.shape) < 3 or not grey.var():
        return -9.0
    inner = grey[1:-1, 1:-1]
    around = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
    return float(np.log10((around - 4 * inner).var() / grey.var() + 1e-9))
