"""Zenodo, played by a server on this machine that breaks, lies and hides things in zips."""

import hashlib
import io
import json
import re
import stat
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from client.data.cache import CellCache
from client.data.index import scan
from common.errors import ConfigError, DataError
from simulations.datasets.download import Remote, Retries, download
from simulations.datasets.mll23 import fetch, listing
from simulations.datasets.unpack import unpack

QUICK = Retries(attempts=3, first=0.0, timeout=5.0)


def send(handler: BaseHTTPRequestHandler, content: bytes, start: int, cut: int | None) -> None:
    """Answer with `content` from `start`; the connection breaks after `cut` bytes."""
    handler.send_response(206 if start else 200)
    if start:
        handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
    handler.send_header("Content-Length", str(len(content) - start))
    handler.end_headers()
    handler.wfile.write(content[start:][:cut])


@dataclass
class Zenodo:
    """The record's files; what has been asked; how each of the next requests is to go wrong."""

    files: dict[str, bytes] = field(default_factory=dict)
    faults: list[object] = field(default_factory=list)
    """Per request of a file: an HTTP status, bytes after which it breaks, or other content."""
    asked: list[tuple[str, int]] = field(default_factory=list)
    ranges: bool = True
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/api/records/1"

    def record(self) -> bytes:
        files = [
            {
                "key": name,
                "size": len(content),
                "checksum": f"md5:{hashlib.md5(content).hexdigest()}",
                "links": {"self": f"{self.url}/files/{name}/content"},
            }
            for name, content in self.files.items()
        ]
        return json.dumps({"files": files}).encode()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        if handler.path.endswith("/records/1"):
            send(handler, self.record(), 0, None)
            return
        name = handler.path.split("/")[-2]
        start = int(handler.headers.get("Range", "bytes=0-")[6:-1]) if self.ranges else 0
        self.asked.append((name, start))
        fault = self.faults.pop(0) if self.faults else None
        content = fault if isinstance(fault, bytes) else self.files[name]
        if isinstance(fault, str):
            handler.send_error(int(fault))
        else:
            send(handler, content, start, fault if isinstance(fault, int) else None)


@pytest.fixture
def zenodo() -> Iterator[Zenodo]:
    state = Zenodo()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.answer(self)

        def log_message(self, *_: object) -> None:
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        state.port = server.server_port
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield state
        server.shutdown()
        thread.join()


def picture(seed: int) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (288, 288, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "TIFF")
    return buffer.getvalue()


def zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def class_zip(label: str, count: int = 2) -> bytes:
    """As MLL23's: a folder of the class, and what macOS adds."""
    members = {f"{label}/{label}_{at:04}.TIF": picture(at) for at in range(1, count + 1)}
    junk = {f"__MACOSX/{name.replace('/', '/._')}": b"junk" for name in members}
    return zipped({f"{label}/": b""} | members | junk | {f"{label}/.DS_Store": b"junk"})


def test_the_record_becomes_class_folders_and_an_index(zenodo: Zenodo, tmp_path: Path) -> None:
    zenodo.files = {
        "basophil.zip": class_zip("basophil"),
        "hairy_cell.zip": class_zip("hairy_cell"),
    }
    zenodo.files["README.md"] = b"not fetched"
    seen: list[tuple[int, int]] = []
    fetch(tmp_path, zenodo.url, QUICK, lambda done, total: seen.append((done, total)))
    index = scan(tmp_path)
    assert index.counts() == {"basophil": 2, "hairy_cell": 2}
    assert (tmp_path / "basophil/basophil_0001.TIF").read_bytes() == picture(1)
    total = sum(len(content) for name, content in zenodo.files.items() if name.endswith("zip"))
    assert seen[-1] == (total, total)
    assert seen == sorted(seen)
    assert not list(tmp_path.rglob("*.zip"))
    asked = list(zenodo.asked)
    fetch(tmp_path, zenodo.url, QUICK)
    assert zenodo.asked == asked


def test_a_broken_download_goes_on_where_it_broke(zenodo: Zenodo, tmp_path: Path) -> None:
    zenodo.files = {"basophil.zip": class_zip("basophil")}
    zenodo.faults = [100_000, "503", 50_000, "429", "500"]
    fetch(tmp_path, zenodo.url, QUICK)
    assert [start for _, start in zenodo.asked] == [0, 100_000, 100_000, 150_000, 150_000, 150_000]
    assert len(scan(tmp_path).rows) == 2


def test_another_run_goes_on_where_this_one_gave_up(zenodo: Zenodo, tmp_path: Path) -> None:
    zenodo.files = {"basophil.zip": class_zip("basophil")}
    zenodo.faults = [100_000, "503", "503", "503"]
    with pytest.raises(DataError, match=r"503.*gave up.*Run the same command again"):
        fetch(tmp_path, zenodo.url, QUICK)
    fetch(tmp_path, zenodo.url, QUICK)
    assert zenodo.asked[-1] == ("basophil.zip", 100_000)
    assert len(scan(tmp_path).rows) == 2


def test_a_server_without_ranges_starts_over(zenodo: Zenodo, tmp_path: Path) -> None:
    zenodo.files = {"basophil.zip": class_zip("basophil")}
    zenodo.faults, zenodo.ranges = [100_000], False
    fetch(tmp_path, zenodo.url, QUICK)
    assert len(scan(tmp_path).rows) == 2


def test_wrong_content_once_is_fetched_again(zenodo: Zenodo, tmp_path: Path) -> None:
    right = class_zip("basophil")
    zenodo.files, zenodo.faults = {"basophil.zip": right}, [b"\0" * len(right)]
    fetch(tmp_path, zenodo.url, QUICK)
    assert zenodo.asked == [("basophil.zip", 0)] * 2
    assert len(scan(tmp_path).rows) == 2


def test_wrong_content_twice_is_an_error_and_is_not_kept(zenodo: Zenodo, tmp_path: Path) -> None:
    right = class_zip("basophil")
    zenodo.files, zenodo.faults = {"basophil.zip": right}, [b"\0" * len(right)] * 2
    with pytest.raises(DataError, match=r"MD5 is .*published as .*twice in a row"):
        fetch(tmp_path, zenodo.url, QUICK)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_more_than_was_published_is_an_error(zenodo: Zenodo, tmp_path: Path) -> None:
    zenodo.files = {"a.zip": b"12345"}
    remote = Remote(name="a.zip", url=f"{zenodo.url}/files/a.zip/content", size=3, md5="")
    with pytest.raises(DataError, match="is longer than the 3 bytes"):
        download(remote, tmp_path, QUICK)


def test_what_more_tries_do_not_change_is_not_tried_again(zenodo: Zenodo, tmp_path: Path) -> None:
    zenodo.files, zenodo.faults = {"basophil.zip": class_zip("basophil")}, ["403"]
    with pytest.raises(DataError, match="the server answers 403"):
        fetch(tmp_path, zenodo.url, QUICK)
    assert len(zenodo.asked) == 1


def test_a_disk_that_cannot_be_written_is_not_the_networks_fault(
    zenodo: Zenodo, tmp_path: Path
) -> None:
    zenodo.files = {"basophil.zip": class_zip("basophil")}
    (tmp_path / ".downloads/basophil.zip.part").mkdir(parents=True)
    with pytest.raises(DataError, match=r"basophil\.zip\.part: cannot be written"):
        fetch(tmp_path, zenodo.url, QUICK)
    assert len(zenodo.asked) == 1


def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot be fetched.*refused"):
        fetch(tmp_path, "http://127.0.0.1:9/api/records/1", QUICK)
    with pytest.raises(DataError, match="expected an https address"):
        fetch(tmp_path, "file:///etc/passwd", QUICK)


@pytest.mark.parametrize(
    "record",
    [
        b"<html>",
        b"[]",
        b'{"files": [{"key": "a.zip"}]}',
        b'{"files": [{"key": "../a.zip", "checksum": "md5:0", "size": 1, "links": {"self": ""}}]}',
        b'{"files": [{"key": "a.zip", "checksum": "sha1:0", "size": 1, "links": {"self": ""}}]}',
    ],
)
def test_a_record_of_another_form_is_refused(
    zenodo: Zenodo, record: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Zenodo, "record", lambda _: record)
    with pytest.raises(DataError, match="not a Zenodo record in the known form"):
        listing(zenodo.url, QUICK)


def test_a_record_without_zips_is_refused(zenodo: Zenodo) -> None:
    with pytest.raises(DataError, match="lists no zip"):
        listing(zenodo.url, QUICK)


@pytest.mark.parametrize(
    "name",
    ["../evil/a.TIF", "/evil/a.TIF", "basophil/../../a.TIF", "..\\basophil\\a.TIF", "C:/b/a.TIF"],
)
def test_a_zip_cannot_write_outside_its_folder(zenodo: Zenodo, tmp_path: Path, name: str) -> None:
    zenodo.files = {"basophil.zip": zipped({"basophil/ok.TIF": picture(0), name: picture(1)})}
    with pytest.raises(DataError, match="leads out of the folder; nothing was unpacked"):
        fetch(tmp_path / "mll23", zenodo.url, QUICK)
    assert not [path for path in tmp_path.rglob("*") if path.suffix == ".TIF"]


def test_a_link_in_a_zip_is_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("basophil/a.TIF")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(DataError, match="is a link or device; nothing was unpacked"):
        unpack(tmp_path / "a.zip", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"artefact/a.TIF": b""}, "artefact/a.TIF: label 'artefact' is not a known"),
        ({"x/basophil/a.TIF": b"", "y/basophil/a.TIF": b""}, "collide"),
    ],
)
def test_a_zip_of_another_layout_is_refused(
    tmp_path: Path, members: dict[str, bytes], message: str
) -> None:
    (tmp_path / "a.zip").write_bytes(zipped(members))
    with pytest.raises(DataError, match=re.escape(message)):
        unpack(tmp_path / "a.zip", tmp_path / "out")


def test_layouts_with_and_without_folders(tmp_path: Path) -> None:
    members = {"MLL23_dataset/basophil/a.TIF": b"1", "b.tif": b"2", "notes.txt": b"3"}
    (tmp_path / "monocyte.zip").write_bytes(zipped(members))
    assert unpack(tmp_path / "monocyte.zip", tmp_path / "out") == 2
    assert (tmp_path / "out/basophil/a.TIF").read_bytes() == b"1"
    assert (tmp_path / "out/monocyte/b.tif").read_bytes() == b"2"


def test_a_damaged_zip_leaves_no_half_image(tmp_path: Path) -> None:
    content = bytearray(zipped({"basophil/a.TIF": picture(0)}))
    content[1000] ^= 0xFF
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(DataError, match=r"is not a whole zip .Bad CRC-32"):
        unpack(tmp_path / "a.zip", tmp_path / "out")
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    (tmp_path / "a.zip").write_bytes(b"no zip")
    with pytest.raises(DataError, match="is not a whole zip"):
        unpack(tmp_path / "a.zip", tmp_path / "out")


def test_too_little_room_is_said_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.zip").write_bytes(zipped({"basophil/a.TIF": picture(0)}))
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(DataError, match=r"0\.00 GB are needed, 0\.00 GB are free"):
        unpack(tmp_path / "a.zip", tmp_path / "out")


def test_the_command_fetches_and_indexes(
    zenodo: Zenodo,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    hemofed_data: Callable[..., Any],
) -> None:
    monkeypatch.setenv("HEMOFED_CACHE", str(tmp_path / "root"))
    zenodo.files = {"basophil.zip": class_zip("basophil")}
    result = hemofed_data("fetch", "MLL23", "--out", tmp_path / "mll23", "--url", zenodo.url)
    assert result.exit_code == 0, result.exception
    assert "2 images of 64 px" in result.output
    cache = CellCache.open(next((tmp_path / "root").iterdir()))
    assert cache.meta["um_per_px"] == pytest.approx(25 / 288)
    assert isinstance(hemofed_data("fetch", "pbc").exception, ConfigError)


def test_a_proxy_that_cannot_be_used_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALL_PROXY", "gopher://127.0.0.1:1")
    with pytest.raises(DataError, match="the proxy that HTTPS_PROXY"):
        fetch(tmp_path, "http://127.0.0.1:1/api/records/1", QUICK)


def test_a_download_by_tls_is_not_led_off_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The document that names the checksums would be anybody's."""

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.scheme == "https":
            return httpx.Response(302, headers={"Location": "http://there.test/record"})
        return httpx.Response(200, json={"files": []})

    plain = httpx.Client
    monkeypatch.setattr(
        httpx, "Client", lambda **options: plain(transport=httpx.MockTransport(answer), **options)
    )
    with pytest.raises(DataError, match=r"leads to there\.test without TLS"):
        fetch(tmp_path, "https://here.test/record", QUICK)
