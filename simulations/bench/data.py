"""`hemofed bench data`: indexing and caching images, beside a bare Pillow loop on these files."""

import multiprocessing
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from client.data.cache import build
from client.data.decoding.image import FILTER
from client.data.index import Index, scan
from common.errors import DataError
from simulations.bench.harness import Measure, in_turn, report

SIDE = 64
WORKERS = 2
BARE = "bare Pillow, 2 processes"


def run(quick: bool, json_file: Path | None) -> None:
    """Measure the images per second of both, with two workers each.

    The images are those of the largest lab in HEMOFED_DATA, or rendered. The bare loop forks two
    processes; each opens, converts and resizes every other file and drops the result. hemofed scans
    the folder, decodes with two threads, and writes, syncs and renames a cache. Both resize whole
    images with the same filter, and the page cache is warm for both.
    """
    with tempfile.TemporaryDirectory(prefix="hemofed-bench-") as folder:
        source = _largest_lab() or _rendered(Path(folder, "rendered"), 400 if quick else 2000)
        if quick:
            source = _sample(source, Path(folder, "sample"), 1000)
        index = scan(source)
        contestants: dict[str, Measure] = {
            BARE: partial(_bare, [row.path for row in index.rows]),
            "hemofed index and cache": partial(_ours, index, Path(folder, "cache")),
        }
        outcomes = in_turn(contestants, repetitions=3 if quick else 7)
        with Image.open(index.rows[0].path) as image:
            kind = f"{image.format}, {image.width} x {image.height} px"
    report(f"{len(index.rows):,} images ({kind}) to {SIDE} px", outcomes, BARE, json_file)


def _bare(paths: Sequence[Path]) -> dict[str, float]:
    context = multiprocessing.get_context("fork")
    start = time.perf_counter()
    workers = [
        context.Process(target=_loop, args=(paths[number::WORKERS],)) for number in range(WORKERS)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return _figures(time.perf_counter() - start, len(paths))


def _loop(paths: Sequence[Path]) -> None:
    for path in paths:
        with Image.open(path) as image:
            np.asarray(image.convert("RGB").resize((SIDE, SIDE), FILTER))


def _ours(index: Index, folder: Path) -> dict[str, float]:
    shutil.rmtree(folder, ignore_errors=True)
    start = time.perf_counter()
    scan(index.source)
    build(index, folder, SIDE, workers=WORKERS)
    return _figures(time.perf_counter() - start, len(index.rows))


def _figures(seconds: float, images: int) -> dict[str, float]:
    return {"seconds": seconds, "images a second": images / seconds}


def _largest_lab() -> Path | None:
    """Return the lab with the most images in the folder HEMOFED_DATA; None if that is not set."""
    root = os.environ.get("HEMOFED_DATA")
    if not root:
        return None
    sizes: dict[Path, int] = {}
    for lab in (path for path in Path(root).iterdir() if path.is_dir()):
        sizes[lab] = sum(1 for _ in lab.glob("*/*"))
    if not sizes:
        raise DataError(f"HEMOFED_DATA={root}: expected one folder a lab")
    return max(sizes, key=lambda lab: sizes[lab])


def _sample(source: Path, folder: Path, most: int) -> Path:
    """Make links to at most `most` images of a lab, spread evenly over it."""
    rows = scan(source).rows
    for row in rows[:: max(1, -(-len(rows) // most))]:
        link = folder / row.name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(row.path.resolve())
    return folder


def _rendered(folder: Path, count: int) -> Path:
    """Make TIFFs of MLL23's size: smooth, slightly noisy blobs that take as long as real cells."""
    rng = np.random.default_rng(0)
    target = folder / "lymphocyte"
    target.mkdir(parents=True)
    for number in range(count):
        coarse = rng.integers(90, 230, (12, 12, 3), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize((288, 288), FILTER), dtype=np.int16)
        pixels = smooth + rng.integers(-6, 7, smooth.shape)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(target / f"{number:05}.TIF")
    return folder
