"""What the caches alone tell of a site's cells: what `hemofed data check` tells of the files."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from client.data.cache import prepare
from client.data.quality.check import check
from client.data.quality.from_cache import findings, same_pixels
from client.data.store import CellCache
from tests.client.data import damaged_lab


def cache(source: Path, root: Path) -> CellCache:
    return CellCache.open(prepare(source, 32, cache_root=root))


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    return damaged_lab.lab(tmp_path / "lab")


def test_a_tidy_lab_has_no_findings(lab: Path, tmp_path: Path) -> None:
    assert findings([cache(lab, tmp_path)]) == []


def test_what_is_found_is_what_the_check_of_the_source_finds(lab: Path, tmp_path: Path) -> None:
    first, other, rare = (lab / kind / f"{kind}_0000.png" for kind in damaged_lab.TYPES)
    shutil.copy(first, lab / "monocyte" / "copy.png")
    shutil.copy(other, other.with_name("copy.png"))
    for number in range(1, 6):
        rare.with_name(f"monocyte_{number:04}.png").unlink()
    found = {one.code: one.files for one in findings([cache(lab, tmp_path)])}
    assert found == {one.code: one.files for one in check(lab).findings}
    assert set(found) == {"duplicate", "duplicate-two-labels", "rare-type"}


def test_doubles_are_found_across_caches_and_not_outside_a_selection(
    lab: Path, tmp_path: Path
) -> None:
    other = damaged_lab.lab(tmp_path / "other" / "lab", each=2)
    for number, path in enumerate(sorted(other.rglob("*.png"))):
        damaged_lab.cell(50_000 + number).save(path)
    shutil.copy(
        lab / "monocyte" / "monocyte_0003.png", other / "eosinophil" / "eosinophil_0001.png"
    )
    caches = [cache(lab, tmp_path), cache(other, tmp_path)]
    (group,) = same_pixels(caches)
    names = [name for one in caches for name in one.sources]
    assert [names[row] for row in group] == [
        "monocyte/monocyte_0003.png",
        "eosinophil/eosinophil_0001.png",
    ]
    kept = np.flatnonzero(caches[0].sources != "monocyte/monocyte_0003.png")
    assert same_pixels([caches[0].select(kept), caches[1]]) == ()


def test_images_that_share_their_middle_line_alone_are_no_doubles(
    lab: Path, tmp_path: Path
) -> None:
    one = cache(lab, tmp_path)
    images = np.lib.format.open_memmap(one.folder / "images.npy", "r+")
    images[:, 16] = 7
    images.flush()
    assert same_pixels([CellCache.open(one.folder)]) == ()
