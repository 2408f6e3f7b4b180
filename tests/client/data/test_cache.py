"""A cache holds what a bare loop would decode, appears whole or not at all, and follows sources."""

import errno
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from client.data import cache as caching
from client.data.cache import CellCache, Geometry, build, content_key, prepare
from client.data.decoding import array
from client.data.index import scan
from common.cell_types import CODES
from common.errors import DataError

Paint = Callable[..., Path]


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def _python(script: str) -> str:
    """What a Python of its own prints."""
    command = [sys.executable, "-c", script]
    root = Path(caching.__file__).parents[2]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=120, cwd=root
    )
    return done.stdout


def test_pixels_are_those_of_a_bare_loop(lab: Path, tmp_path: Path) -> None:
    cache = CellCache.open(build(scan(lab), tmp_path / "out", 24))
    assert cache.images.shape == (11, 24, 24, 3)
    assert isinstance(cache.images, np.memmap)
    assert not cache.images.flags.writeable
    for image, label, source in zip(cache.images, cache.labels, cache.sources, strict=True):
        with Image.open(lab / source) as picture:
            bare = picture.convert("RGB").resize((24, 24), Image.Resampling.BICUBIC)
        np.testing.assert_array_equal(image, np.asarray(bare))
        assert label == CODES[source.split("/")[0]]
    assert cache.counts == {"myeloblast": 3, "basophil": 4, "monocyte": 4}
    assert cache.labels.dtype == np.int64
    assert cache.side == 24
    assert len(cache) == 11


def test_workers_change_nothing(
    tmp_path: Path, paint: Paint, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(150):
        paint(tmp_path / "lab/basophil" / f"{seed}.png", size=(9, 7), seed=seed)
    index = scan(tmp_path / "lab")
    seen: list[tuple[int, int]] = []
    report = lambda done, total: seen.append((done, total))  # noqa: E731
    build(index, tmp_path / "one", 8, workers=1)
    build(index, tmp_path / "four", 8, workers=4, progress=report)
    monkeypatch.setattr(array, "_PROCESSES_PAY", 100)
    build(index, tmp_path / "two processes", 8, workers=2)
    for name in files(tmp_path / "one"):
        whole = (tmp_path / "one" / name).read_bytes()
        assert (tmp_path / "four" / name).read_bytes() == whole
        assert (tmp_path / "two processes" / name).read_bytes() == whole
    assert seen == [(64, 150), (128, 150), (150, 150)]


def test_patients_and_splits_come_along(lab: Path, tmp_path: Path) -> None:
    (lab / "cells.csv").write_text(
        "path,label,patient,split\nmonocyte/0.png,MON,Zoë,train\nmonocyte/1.png,MON,,\n"
    )
    cache = CellCache.open(build(scan(lab), tmp_path / "out", 8))
    assert cache.patients.tolist() == ["Zoë", ""]
    assert cache.splits.tolist() == ["train", ""]


def test_prepare_decodes_again_only_when_something_changed(lab: Path, tmp_path: Path) -> None:
    root, runs = tmp_path / "root", []
    run = lambda **kw: prepare(  # noqa: E731
        lab, kw.pop("side", 8), cache_root=root, progress=lambda *_: runs.append(1), **kw
    )
    first = run()
    assert run() == first
    assert len(runs) == 1
    os.utime(lab / "monocyte/1.png", ns=(1, 1))
    again = run()
    assert again != first
    assert CellCache.open(again).fingerprint == CellCache.open(first).fingerprint
    assert len({again, run(side=9), run(um_per_px=1.0), run(label_map={"monocyte": "BAS"})}) == 4
    (lab / "monocyte/1.png").unlink()
    assert len(CellCache.open(run())) == 10


def test_an_image_written_over_is_seen_though_its_size_and_time_stay(lab: Path) -> None:
    path, geometry = lab / "monocyte/1.png", Geometry(side=8)
    before, status = content_key(scan(lab), geometry), path.stat()
    time.sleep(0.02)  # the file system's clock ticks some hundred times a second
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_size == status.st_size
    assert content_key(scan(lab), geometry) != before


def test_root_comes_from_the_environment(
    lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEMOFED_CACHE", str(tmp_path / "elsewhere"))
    assert prepare(lab, 8).parent == tmp_path / "elsewhere"
    monkeypatch.delenv("HEMOFED_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert prepare(lab, 8).parent == tmp_path / "home/.cache/hemofed"


def test_a_named_folder_is_replaced_when_sources_change(lab: Path, tmp_path: Path) -> None:
    out = build(scan(lab), tmp_path / "out", 8)
    old = CellCache.open(out)
    (lab / "basophil/basophil_0000.TIF").unlink()
    build(scan(lab), out, 8)
    assert len(CellCache.open(out)) == 10
    assert old.images[10].any()
    assert files(tmp_path) == [
        *files(tmp_path)[: -len(files(out)) - 1],
        "out",
        *(f"out/{name}" for name in ("images.npy", "meta.json", "rows.csv")),
    ]


def test_a_folder_of_other_things_is_left_alone(lab: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.tex").write_text("mine")
    with pytest.raises(DataError, match="holds something else than a cell cache"):
        build(scan(lab), tmp_path / "out", 8)
    assert files(tmp_path / "out") == ["thesis.tex"]


def test_a_truncated_tiff_is_named_and_nothing_is_left(lab: Path, tmp_path: Path) -> None:
    for name in ("basophil/basophil_0002.TIF", "monocyte/3.png"):
        whole = (lab / name).read_bytes()
        (lab / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError) as caught:
        prepare(lab, 8, cache_root=tmp_path / "root")
    assert "basophil_0002.TIF: cannot be read as an image" in str(caught.value)
    assert "monocyte/3.png: cannot be read as an image" in str(caught.value)
    assert "hemofed data check" in str(caught.value)
    assert files(tmp_path / "root") == []


def test_processes_tell_the_same_errors(
    lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(array, "_PROCESSES_PAY", 1)
    (lab / "monocyte/3.png").write_bytes(b"not a picture")
    with pytest.raises(DataError, match=r"monocyte/3\.png: cannot be read as an image"):
        prepare(lab, 8, cache_root=tmp_path / "root")
    assert files(tmp_path / "root") == []


@pytest.mark.parametrize("call", ["posix_fallocate", "pwrite"])
def test_a_full_disk_is_one_error_and_nothing_is_left(
    lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(DataError, match=r"the disk is full.*needs 0 MB.*HEMOFED_CACHE"):
        prepare(lab, 8, cache_root=tmp_path / "root")
    assert files(tmp_path / "root") == []
    monkeypatch.undo()
    assert len(CellCache.open(prepare(lab, 8, cache_root=tmp_path / "root"))) == 11


def test_a_real_limit_on_file_size_is_the_same_error(lab: Path, tmp_path: Path) -> None:
    """The kernel refuses to write: no patched function, another process, a real errno."""
    script = f"""
import resource
from pathlib import Path
from client.data.cache import prepare
from common.errors import DataError
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
try:
    prepare(Path({str(lab)!r}), 32, cache_root=Path({str(tmp_path / "root")!r}))
except DataError as error:
    print(error)
"""
    assert "the disk is full" in _python(script)
    assert files(tmp_path / "root") == []


def test_memory_does_not_grow_with_the_images(tmp_path: Path, paint: Paint) -> None:
    for seed in range(4):
        paint(tmp_path / f"lab/basophil/{seed}.png", size=(9, 9), seed=seed)
    for copy in range(600):
        (tmp_path / f"lab/basophil/copy {copy}.png").symlink_to(f"{copy % 4}.png")
    script = f"""
import resource
from pathlib import Path
from client.data.cache import build
from client.data.index import Index, scan
index = scan(Path({str(tmp_path / "lab")!r}))
few = Index(source=index.source, rows=index.rows[:30])
build(few, Path({str(tmp_path / "few")!r}), 256)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
build(index, Path({str(tmp_path / "many")!r}), 256)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    grown = int(_python(script)) / 1000
    assert (tmp_path / "many/images.npy").stat().st_size > 100e6
    assert grown < 25, f"{grown:.0f} MB"


def test_a_disk_that_cannot_be_written_is_an_error(lab: Path, tmp_path: Path) -> None:
    (tmp_path / "root").write_text("a file, not a folder")
    with pytest.raises(DataError, match="cannot be written"):
        prepare(lab, 8, cache_root=tmp_path / "root")


def test_what_a_killed_build_left_is_cleared(lab: Path, tmp_path: Path) -> None:
    left = tmp_path / "root/.out.building"
    left.mkdir(parents=True)
    (left / "images.npy").write_bytes(b"half")
    (left / "lock").touch()
    build(scan(lab), tmp_path / "root/out", 8)
    assert files(tmp_path / "root") == ["out", "out/images.npy", "out/meta.json", "out/rows.csv"]


def test_many_builders_of_one_cache_decode_once(
    lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded, plain = [], caching.write_images
    monkeypatch.setattr(caching, "write_images", lambda *args: (decoded.append(1), plain(*args))[1])
    folders: list[Path] = []
    builders = [
        threading.Thread(target=lambda: folders.append(prepare(lab, 8, cache_root=tmp_path / "r")))
        for _ in range(6)
    ]
    for builder in builders:
        builder.start()
    for builder in builders:
        builder.join()
    assert len(set(folders)) == 1
    assert len(folders) == 6
    assert len(decoded) == 1
    assert len(files(tmp_path / "r")) == 4


def test_the_fingerprint_follows_pixels_and_labels(lab: Path, tmp_path: Path) -> None:
    prints = {CellCache.open(build(scan(lab), tmp_path / "a", 8)).fingerprint}
    prints.add(CellCache.open(build(scan(lab), tmp_path / "b", 9)).fingerprint)
    index = scan(lab, {"monocyte": "plasma_cell"})
    prints.add(CellCache.open(build(index, tmp_path / "c", 8)).fingerprint)
    (lab / "monocyte/0.png").rename(lab / "monocyte/4.png")
    prints.add(CellCache.open(build(scan(lab), tmp_path / "d", 8)).fingerprint)
    assert len(prints) == 4


def test_a_selection_reads_as_a_cache_of_its_own(lab: Path, tmp_path: Path) -> None:
    whole = CellCache.open(build(scan(lab), tmp_path / "out", 8))
    rows = np.array([10, 3, 3, 0])
    part = whole.select(rows)
    again = part.select(np.array([2, 0]))
    np.testing.assert_array_equal(part.images, whole.images[rows])
    np.testing.assert_array_equal(part.take(np.array([1, 2])), whole.images[[3, 3]])
    np.testing.assert_array_equal(again.images, whole.images[[3, 10]])
    np.testing.assert_array_equal(again.labels, whole.labels[[3, 10]])
    assert again.sources.tolist() == whole.sources[[3, 10]].tolist()
    assert len(part.select(np.array([], dtype=np.int64))) == 0
    assert len({whole.fingerprint, part.fingerprint, again.fingerprint}) == 3
    assert part.fingerprint == whole.select(rows).fingerprint
    taken = whole.take(rows)
    taken[:] = 0
    assert whole.images[0].any()


@pytest.mark.parametrize("rows", [[11], [-1], [[0, 1]]])
def test_a_selection_outside_the_cache_is_refused(
    lab: Path, tmp_path: Path, rows: list[int]
) -> None:
    whole = CellCache.open(build(scan(lab), tmp_path / "out", 8))
    with pytest.raises(DataError, match="numbers from 0 to 10"):
        whole.select(np.array(rows))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("meta.json", None, "is not a cell cache; make one with"),
        ("meta.json", b"{", "damaged"),
        ("meta.json", b'{"format": 99}', "is not of cache format"),
        ("rows.csv", b"source,label,patient,split\n", "expected 11 rows"),
        ("rows.csv", b"\xff", "damaged"),
        ("images.npy", b"", "damaged"),
        ("images.npy", None, "damaged"),
    ],
)
def test_a_damaged_cache_is_an_error_and_is_built_again(
    lab: Path, tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    folder = prepare(lab, 8, cache_root=tmp_path)
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        CellCache.open(folder)
    if name != "meta.json" or content is not None:
        assert len(CellCache.open(prepare(lab, 8, cache_root=tmp_path))) == 11


def test_a_cache_cut_short_is_an_error(lab: Path, tmp_path: Path) -> None:
    folder = prepare(lab, 8, cache_root=tmp_path)
    whole = (folder / "images.npy").read_bytes()
    (folder / "images.npy").write_bytes(whole[:-1])
    with pytest.raises(DataError, match="damaged"):
        CellCache.open(folder)


def test_a_cache_is_no_source(lab: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is an indexed cache"):
        scan(build(scan(lab), tmp_path / "out", 8))


@pytest.mark.parametrize(
    "geometry", [{"side": 0}, {"um_per_px": 0.0}, {"um_per_px": float("nan")}, {"field_um": -1.0}]
)
def test_a_geometry_out_of_bounds_is_refused(
    lab: Path, tmp_path: Path, geometry: dict[str, float]
) -> None:
    with pytest.raises(DataError, match=f"{next(iter(geometry))} is .*expected"):
        build(scan(lab), tmp_path / "out", **({"side": 8} | geometry))
