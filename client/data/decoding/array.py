"""Image files -> one .npy of squares, decoded by several workers, in the files' order."""

import hashlib
import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np

from client.data.decoding.chunk import Geometry, PixelChunk
from client.data.decoding.image import quiet
from client.data.decoding.processes import decoders

Progress = Callable[[int, int], None]
"""Called with the images done and the images in all."""

_CHUNK = 64
"""Images a chunk at most; fewer where that would be over `_CHUNK_BYTES`."""
_CHUNK_BYTES = 1 << 21
_PROCESSES_PAY = 4096
"""From this many images on, processes save more than it takes to start them."""


def write_images(
    path: Path,
    sources: Sequence[Path],
    geometry: Geometry,
    workers: int | None = None,
    progress: Progress | None = None,
) -> str:
    """Write uint8 (len(sources), side, side, 3) to `path`; the digest of the pixels.

    Neither the file nor the digest depends on `workers` (None: one a core, up to 8). Memory holds
    a chunk of images a worker. Raises DataError naming the images of the first chunk that has
    unreadable ones; OSError when the disk does not take the file.
    """
    digest = hashlib.blake2b(digest_size=16)
    chunks = _reserve(path, sources, geometry.side)
    done = 0
    with _workers(workers or min(8, os.cpu_count() or 1), geometry, len(sources)) as (pool, work):
        for chunk, part in zip(chunks, pool.map(work, chunks), strict=True):
            digest.update(part.encode())
            done += len(chunk.sources)
            if progress:
                progress(done, len(sources))
    return digest.hexdigest()


@contextmanager
def _workers(
    number: int, geometry: Geometry, images: int
) -> Iterator[tuple[ThreadPoolExecutor, Callable[[PixelChunk], str]]]:
    """Threads and what they do; what has not begun is dropped as soon as something fails.

    Pillow lets go of the interpreter while it decodes and resizes, so threads by themselves do for
    few images. For many, each has a child process, which shares out the work around that too.
    """
    with ExitStack() as stack:
        if number > 1 and images >= _PROCESSES_PAY:
            work = partial(stack.enter_context(decoders(number)).write, geometry)
        else:
            stack.enter_context(quiet())
            work = partial(_write, geometry)
        pool = ThreadPoolExecutor(number)
        try:
            yield pool, work
        finally:
            pool.shutdown(cancel_futures=True)


def _write(geometry: Geometry, chunk: PixelChunk) -> str:
    return chunk.write(geometry)


def _reserve(path: Path, sources: Sequence[Path], side: int) -> list[PixelChunk]:
    """Write the .npy's header and take the room for all pixels; who goes where in it.

    A map of a file with holes dies of SIGBUS when the disk fills; room taken first is an error
    that can be told, before any image is decoded.
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
