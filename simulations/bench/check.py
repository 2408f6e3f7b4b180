"""`hemofed bench check`: the time and memory of `hemofed data check` for two kinds of images."""

import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import psutil
from numpy.typing import NDArray
from PIL import Image

from client.data.quality.findings import FAIL, PASS, WARNINGS
from common.process_hardening import environment, python
from simulations.bench.harness import Measure, in_turn, report

SIDE = 24
TYPES = ("eosinophil", "lymphocyte", "monocyte")
OTHERS = "others"
_EVERY = 0.02


def run(quick: bool, json_file: Path | None) -> None:
    """Measure 6,000 near-identical images, such as a Z-stack or a film, and 100,000 unlike ones.

    Each check is a fresh process; its memory and its children's is read 50 times a second.
    Near-identical images differ by 2 grey levels of noise. `quick` takes fewer images.
    """
    same, others = (300, 1000) if quick else (6000, 100_000)
    with tempfile.TemporaryDirectory(prefix="hemofed-bench-") as folder:
        write(Path(folder, "same"), near_identical(same))
        write(Path(folder, "others"), unlike(others))
        contestants: dict[str, Measure] = {
            OTHERS: partial(_check, Path(folder, "others"), others),
            "near-identical": partial(_check, Path(folder, "same"), same),
        }
        outcomes = in_turn(contestants, repetitions=1, warmup=0)
    title = f"data check: {others:,} images, and {same:,} near-identical ones, of {SIDE} px"
    report(title, outcomes, OTHERS, json_file)


def near_identical(number: int) -> Iterator[NDArray[np.uint8]]:
    """Yield (SIDE, SIDE, 3) uint8 pictures that are the same but for their noise."""
    rng = np.random.default_rng(0)
    picture = next(unlike(1)).astype(np.int16)
    for _ in range(number):
        noise = rng.integers(-2, 3, picture.shape)
        yield (picture + noise).clip(0, 255).astype(np.uint8)


def unlike(number: int) -> Iterator[NDArray[np.uint8]]:
    """Yield (SIDE, SIDE, 3) uint8 pictures of smooth patches in random colours."""
    rng = np.random.default_rng(1)
    for _ in range(number):
        coarse = rng.integers(60, 240, (6, 6, 3), dtype=np.uint8)
        yield np.asarray(Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def write(folder: Path, pictures: Iterator[NDArray[np.uint8]]) -> None:
    """Write the pictures into class folders below `folder`; the types take turns."""
    for name in TYPES:
        (folder / name).mkdir(parents=True)
    for number, picture in enumerate(pictures):
        target = folder / TYPES[number % len(TYPES)] / f"{number:06}.png"
        Image.fromarray(picture).save(target)


def _check(folder: Path, images: int) -> dict[str, float]:
    start, own, whole = time.perf_counter(), 0, 0
    command = python("-m", "hemofed", "data", "check", str(folder))
    with psutil.Popen(command, stdout=subprocess.DEVNULL, env=environment()) as process:
        while process.poll() is None:
            with suppress(psutil.NoSuchProcess):
                mine = process.memory_info().rss
                children = sum(c.memory_info().rss for c in process.children(recursive=True))
                own, whole = max(own, mine), max(whole, mine + children)
            with suppress(psutil.TimeoutExpired):
                process.wait(_EVERY)
    if process.returncode not in (PASS, WARNINGS, FAIL):
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
    seconds = time.perf_counter() - start
    return {
        "seconds": seconds,
        "ms an image": 1e3 * seconds / images,
        "MiB": own / 2**20,
        "MiB with children": whole / 2**20,
    }
