"""Decodes image files with several workers into one .npy of squares, in the files' order."""

import hashlib
import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np

from client.data.decoding.chunk import Geometry, PixelChunk
from client.data.decoding.image import quiet
from common.errors import DataError
from common.process_pool import process_pool

Progress = Callable[[int, int], None]
"""Called with the images done and the images in all."""

_CHUNK = 64
"""Most images in a chunk; fewer, if their pixels would be more than `_CHUNK_BYTES`."""
_CHUNK_BYTES = 1 << 21
_PROCESSES_PAY = 4096
"""From this many images on, processes save more time than their start takes."""


def write_images(
    path: Path,
    sources: Sequence[Path],
    geometry: Geometry,
    workers: int | None = None,
    progress: Progress | None = None,
) -> str:
    """Write uint8 (len(sources), side, side, 3) to `path`, and return a digest of the pixels.

    Neither the file nor the digest depends on `workers` (None: one for each core, up to 8). Memory
    holds a chunk of images for each worker.

    Raises:
        DataError: an image cannot be read; the error names all such images of the first chunk
            that has any. Or a process died.
        OSError: the disk does not take the file.
    """
    digest = hashlib.blake2b(digest_size=16)
    chunks = _reserve(path, sources, geometry.side)
    done = 0
    with _workers(workers or min(8, os.cpu_count() or 1), len(sources)) as (pool, write):
        parts = pool.map(partial(write, geometry), chunks)
        for chunk, part in zip(chunks, _unless_killed(parts), strict=True):
            digest.update(part.encode())
            done += len(chunk.sources)
            if progress:
                progress(done, len(sources))
    return digest.hexdigest()


@contextmanager
def _workers(
    number: int, images: int
) -> Iterator[tuple[Executor, Callable[[Geometry, PixelChunk], str]]]:
    """Provide threads, or processes for many images, and the function that they run.

    After a failure, work that has not begun is dropped.

    Pillow releases the interpreter lock while it decodes and resizes, so threads suffice for few
    images. For many, processes also share the work around that.
    """
    if number > 1 and images >= _PROCESSES_PAY:
        with process_pool(number) as pool:
            yield pool, _write_alone
    else:
        threads = ThreadPoolExecutor(number)
        try:
            with quiet():
                yield threads, _write
        finally:
            threads.shutdown(cancel_futures=True)


def _unless_killed(parts: Iterator[str]) -> Iterator[str]:
    try:
        yield from parts
    except BrokenProcessPool as error:
        raise DataError("a process that decodes images died; is memory short?") from error


def _write(geometry: Geometry, chunk: PixelChunk) -> str:
    return chunk.write(geometry)


def _write_alone(geometry: Geometry, chunk: PixelChunk) -> str:
    """`_write` for a process with one thread, which sets its own warning filters."""
    with quiet():
        return chunk.write(geometry)


def _reserve(path: Path, sources: Sequence[Path], side: int) -> list[PixelChunk]:
    """Write the .npy's header, allocate the disk space for all pixels, and return the chunks.

    The system ends a process with SIGBUS that maps a file with holes when the disk is full.
    Allocating first instead raises an error, before any image is decoded.
    """
    with path.open("wb") as file:
        start = _write_header(file, (len(sources), side, side, 3))
    size = side * side * 3
    step = max(1, min(_CHUNK, _CHUNK_BYTES // size))
    return [
        PixelChunk(
            target=str(path),
            offset=start + at * size,
            sources=tuple(str(source) for source in sources[at : at + step]),
        )
        for at in range(0, len(sources), step)
    ]


def _write_header(file: BinaryIO, shape: tuple[int, ...]) -> int:
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    file.flush()
    start = file.tell()
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, start + math.prod(shape))
    return start
