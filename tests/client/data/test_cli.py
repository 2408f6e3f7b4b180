"""`hemofed data index` says what it found, where it put it, and what it passed over."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from client.data.cache import CellCache
from client.data.label_map import read_label_map
from common.errors import ConfigError, DataError

Command = Callable[..., Any]


def test_index_prints_counts_and_the_folder(
    lab: Path, tmp_path: Path, hemofed_data: Command
) -> None:
    (lab / "basophil/.hidden").touch()
    out = tmp_path / "out"
    result = hemofed_data("index", lab, "--side", 16, "--um-per-px", 0.5, "--out", out)
    assert result.exit_code == 0, result.exception
    for text in ("11 images of 16 px", "basophil", "passed over: 1 hidden", f"cache: {out}"):
        assert text in result.output
    cache = CellCache.open(out)
    assert (cache.side, cache.meta["um_per_px"], cache.meta["field_um"]) == (16, 0.5, 25.0)


def test_index_without_out_uses_the_cache_root(
    lab: Path, tmp_path: Path, hemofed_data: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEMOFED_CACHE", str(tmp_path / "root"))
    (lab / "monocyte").rename(lab / "Mono")
    (tmp_path / "site.yaml").write_text("label_map:\n  Mono: MON\n  myeloblast: skip\n")
    result = hemofed_data("index", lab, "--label-map", tmp_path / "site.yaml")
    assert result.exit_code == 0, result.exception
    assert "passed over: 3 left out by label_map" in result.output
    (folder,) = (tmp_path / "root").iterdir()
    assert CellCache.open(folder).counts == {"basophil": 4, "monocyte": 4}


def test_a_site_without_names_of_its_own_has_an_empty_map(tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text("name: lab\nlabel_map: {}\n")
    assert read_label_map(tmp_path / "site.yaml") == {}


def test_errors_are_ours(tmp_path: Path, hemofed_data: Command) -> None:
    assert isinstance(hemofed_data("index", tmp_path / "nowhere").exception, DataError)
    assert hemofed_data("index", tmp_path, "--side", 0).exit_code == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "expected keys and values"),
        ("{}", "expected names and cell types"),
        ("label_map: 3", "expected names and cell types"),
        ("label_map: []", "expected names and cell types"),
        ("name: lab\ncells: []", "'name' is mapped to 'lab', which is not a"),
        ("1: monocyte", "put quotes around numbers"),
        ("ja: yes", "put quotes around numbers"),
        ("Stab: neutrofil_band", "'neutrofil_band', which is not a cell type; nearest: neutrophil"),
    ],
)
def test_a_wrong_label_map_is_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "labels.yaml").write_text(content)
    with pytest.raises(ConfigError, match=rf"labels\.yaml: .*{message}"):
        read_label_map(tmp_path / "labels.yaml")
