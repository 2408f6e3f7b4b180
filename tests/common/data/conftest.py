"""Small folders of pictures that stand for a lab's."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

if TYPE_CHECKING:
    from click.testing import Result

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


@pytest.fixture
def hemofed_data(monkeypatch: pytest.MonkeyPatch) -> Callable[..., "Result"]:
    """Run `hemofed data ...` in this process, in a terminal of 200 columns."""
    monkeypatch.setenv("COLUMNS", "200")
    with warnings.catch_warnings():
        # Typer imports names that Click 8.2 and later will give up.
        warnings.simplefilter("ignore", DeprecationWarning)
        from typer.testing import CliRunner

        from hemofed import data as app
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words])
