"""Small folders of pictures that stand for a lab's."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

Paint = Callable[..., Path]


@pytest.fixture
def paint() -> Paint:
    """Write a picture of noise that its seed decides; returns the path."""

    def write(path: Path, *, size: tuple[int, int] = (40, 40), seed: int = 0) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(seed)
        pixels = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        return path

    return write


@pytest.fixture
def lab(tmp_path: Path, paint: Paint) -> Path:
    """Three cell types, eleven images, four formats."""
    folder = tmp_path / "lab"
    names = (
        *(f"basophil/basophil_{at:04}.TIF" for at in range(4)),
        *(f"monocyte/{at}.png" for at in range(4)),
        "myeloblast/a.jpg",
        "myeloblast/b.bmp",
        "myeloblast/c.tif",
    )
    for seed, name in enumerate(names):
        paint(folder / name, seed=seed)
    return folder
