"""What is measured of each image: about a kilobyte, never the image itself."""

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
"""Fewer images than this are measured here: starting processes would take longer."""
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
"""size: width, height in px. digest: of the file's bytes. hashes: of the picture in its 8
orientations. nucleus, background: median Lab of the darkest and of the lightest pixels.
lightness: mean L, 0 to 100. nuclei: how many lie apart. sharpness: log10 of the Laplacian's
variance over the grey levels'."""

Records = NDArray[np.void]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Measured:
    """One row per image of the listing; one that was not read has its reason and zeros."""

    records: Records
    errors: dict[int, str]
    """Row -> why it could not be read: damaged, cut short, no picture."""
    refused: dict[int, str] = field(default_factory=dict)
    """Row -> why it is not read, whole as it is: its form has no one meaning as a cell."""
    scaled: set[int] = field(default_factory=set)
    """Those of them whose scale is the one given: a person decides which of the two is wrong."""

    @property
    def readable(self) -> NDArray[np.int64]:
        """The rows that were measured."""
        good = np.ones(len(self.records), dtype=bool)
        good[[*self.errors, *self.refused]] = False
        return np.flatnonzero(good)


def measure_all(
    paths: Sequence[str], progress: Progress | None = None, um_per_px: float | None = None
) -> Measured:
    """Measure every image, in two processes where there are many. Order and result do not
    depend on the number of processes. Memory grows by one `RECORD` an image. `um_per_px`: their
    scale, None where it is not known; what `data index` refuses at it is refused here."""
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
    whole: bool
    """Whether it is refused, not damaged."""
    scale: bool = False
    """Whether it is refused for the scale that was given, and may be as good as the others."""


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
    """The image's `RECORD` as bytes, or why there is none."""
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
    """A white cell's nucleus is what absorbs green the most; plasma is what absorbs it least."""
    small = np.asarray(image.resize((_SIDE, _SIDE), Image.Resampling.BOX))
    record["nuclei"] = min(count_nuclei(small), 255)
    pixels = small.reshape(-1, 3)
    order = np.argsort(pixels[:, 1], kind="stable")
    values = lab(pixels)
    record["nucleus"] = np.median(values[order[: len(order) * 5 // 100]], axis=0)
    record["background"] = np.median(values[order[len(order) * 75 // 100 :]], axis=0)
    record["lightness"] = values[:, 0].mean()


def sharpness(image: Image.Image) -> float:
    """log10 of the variance of the Laplacian, relative to the variance of the grey levels.

    Pech-Pacheco et al. 2000 (ICPR, "Diatom autofocusing in brightfield microscopy"), made
    independent of contrast. An image without any detail gives -9.
    """
    grey = np.asarray(image.convert("L"), dtype=np.float32)
    if min(grey.shape) < 3 or not grey.var():
        return -9.0
    inner = grey[1:-1, 1:-1]
    around = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
    return float(np.log10((around - 4 * inner).var() / grey.var() + 1e-9))
