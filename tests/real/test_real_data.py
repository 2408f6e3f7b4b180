"""The five labs' folders index as their manifest says, and their cells are what was decoded."""

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from client.data.cache import CellCache, prepare
from client.data.index import scan
from client.data.splits import of_cache
from common.cell_types import resolve
from common.errors import DataError

LABS = ("bccd", "cellavision_blog", "chula", "pbc_barcelona", "tecom_jiangxi")


def test_folders_and_manifest_agree(real_cells: Path) -> None:
    by_folder = {f"{lab}/{r.name}": r.label for lab in LABS for r in scan(real_cells / lab).rows}
    by_table = {row.name: row.label for row in scan(real_cells / "manifest.csv").rows}
    assert by_folder == by_table
    assert len(by_table) == 15783


def test_the_sets_own_prefixes_resolve_to_the_same_types(real_cells: Path) -> None:
    with (real_cells / "manifest.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["site"] == "pbc_barcelona"]
    pairs = Counter((row["original_label"], row["label"]) for row in rows)
    for original, label in pairs:
        assert resolve(original) == label, original


def test_the_folder_of_labs_says_to_name_one(real_cells: Path) -> None:
    with pytest.raises(DataError, match="name one lab"):
        scan(real_cells)


@pytest.mark.parametrize("lab", ["bccd", "cellavision_blog"])
def test_a_lab_is_cached_and_split(real_cells: Path, tmp_path: Path, lab: str) -> None:
    cache = CellCache.open(prepare(real_cells / lab, 32, cache_root=tmp_path))
    for at in range(0, len(cache), 37):
        with Image.open(real_cells / lab / cache.sources[at]) as image:
            whole = image.convert("RGB").resize((32, 32), Image.Resampling.BICUBIC)
        drafted = np.abs(cache.images[at].astype(int) - np.asarray(whole, dtype=int)).mean()
        assert drafted < 3
    splits = of_cache(cache, seed=0)
    for label in np.unique(cache.labels):
        assert set(splits[cache.labels == label]) >= {"train", "test"}
