"""Pieces of vectors lie in files for as long as the database says so, whatever is killed."""

import errno
import hashlib
import logging
import os
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import FederationError
from common.process_hardening import python
from common.wire.flower_objects import SMALL_BYTES, identifiers, is_piece, take_apart
from common.wire.reply_status import UNREADABLE
from server.flower import body_store
from server.flower.body_store import FOLDER, BodyStore, store_object
from server.flower.link_state import database
from tests.server.nodes import SITES, Setting, state_of

ROOT = Path(__file__).parents[3]
MODEL = np.arange(SMALL_BYTES, dtype=np.float32)


def files(home: Path) -> dict[str, bytes]:
    """The files of the store in a home, by name."""
    return {path.name: path.read_bytes() for path in (database(home).parent / FOLDER).iterdir()}


def store_of(setting: Setting) -> BodyStore:
    store = setting.state.object_store
    assert isinstance(store, BodyStore)
    return store


def test_a_piece_is_a_file_of_its_users_and_goes_with_its_last_message(
    setting: Setting, tmp_path: Path
) -> None:
    sent = list(setting.grid.push_messages([setting.message(site, MODEL) for site in SITES]))
    ((name, content),) = files(tmp_path).items()
    assert hashlib.sha256(content).hexdigest() == name and MODEL.tobytes() in content
    assert (database(tmp_path).parent / FOLDER / name).stat().st_mode & 0o777 == 0o600
    assert store_of(setting).get(name) == content
    assert (
        b"".join(path.read_bytes() for path in database(tmp_path).parent.glob("link*")).find(
            MODEL.tobytes()[: SMALL_BYTES // 2]
        )
        == -1
    ), "no vector is in the database"
    setting.grid.withdraw(sent[:-1])
    assert set(files(tmp_path)) == {name}
    setting.grid.withdraw(sent[-1:])
    assert files(tmp_path) == {}


def test_a_reply_reads_on_after_its_files_are_gone(setting: Setting, tmp_path: Path) -> None:
    (sent,) = setting.grid.push_messages([setting.message("paris")])
    setting.answer("paris", setting.taken("paris"), size=SMALL_BYTES)
    assert len(files(tmp_path)) == 1
    (reply,) = setting.grid.pull_messages([sent])
    assert files(tmp_path) == {}
    assert len(reply.content.array_records["u"]["values"].data) == 4 * SMALL_BYTES


@pytest.mark.parametrize("fault", ["gone", "short", "empty"])
def test_a_reply_whose_piece_is_lost_is_known_at_once(
    setting: Setting, tmp_path: Path, fault: str
) -> None:
    """Not waited for until the round's deadline: it will not come any more."""
    (sent,) = setting.grid.push_messages([setting.message("paris")])
    setting.answer("paris", setting.taken("paris"), size=SMALL_BYTES)
    ((name, content),) = files(tmp_path).items()
    path = database(tmp_path).parent / FOLDER / name
    if fault == "gone":
        path.unlink()
    else:
        path.write_bytes(content[:-1] if fault == "short" else b"")
    (reply,) = setting.grid.pull_messages([sent])
    assert reply.has_error() and reply.error.code == UNREADABLE


def test_files_that_no_row_speaks_of_are_removed(setting: Setting, tmp_path: Path) -> None:
    list(setting.grid.push_messages([setting.message("paris", MODEL)]))
    kept = files(tmp_path)
    folder = database(tmp_path).parent / FOLDER
    for orphan in ("0" * 64, "half", "." + next(iter(kept))):
        (folder / orphan).write_bytes(b"of a process that was killed")
    state_of(tmp_path)
    assert files(tmp_path) == kept


_DIES = """
import os, signal, sys
from pathlib import Path
from tests.server.flower.test_body_store import MODEL
from tests.server.nodes import connected
from server.flower import body_store

step, home = sys.argv[1], Path(sys.argv[2])

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

with connected(home) as setting:
    if step == "half written":
        body_store.is_piece = lambda content: True
        body_store.open = lambda handle, *_, **__: (os.write(handle, b"half"), die())
    elif step == "written":
        real = body_store.BodyStore._write
        body_store.BodyStore._write = lambda *one: (real(*one), die())
    sent = list(setting.grid.push_messages([setting.message("paris", MODEL)]))
    if step == "deleting":
        real_unlink = Path.unlink
        Path.unlink = lambda path, **how: (real_unlink(path, **how), die())
        setting.grid.withdraw(sent)
    die()
"""


@pytest.mark.parametrize("step", ["half written", "written", "deleting", "sent"])
def test_what_a_killed_process_left_is_removed_or_whole(tmp_path: Path, step: str) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [*python("-W", "ignore", "-c", _DIES), step, str(tmp_path)]
    assert subprocess.run(command, cwd=ROOT, env=environment).returncode == -signal.SIGKILL
    state = state_of(tmp_path)
    for name, content in files(tmp_path).items():
        assert hashlib.sha256(content).hexdigest() == name
    assert len(files(tmp_path)) == (1 if step == "sent" else 0)
    for run in state.get_run_info():
        state.stop_run(run.run_id)
    assert files(tmp_path) == {}


@pytest.mark.parametrize("fault", ["gone", "short"])
@pytest.mark.parametrize("kept", [False, True], ids=["not read", "read before"])
def test_a_lost_piece_is_asked_for_again_by_who_needs_it(
    setting: Setting, tmp_path: Path, caplog: pytest.LogCaptureFixture, fault: str, kept: bool
) -> None:
    list(setting.grid.push_messages([setting.message("paris", MODEL)]))
    ((name, content),) = files(tmp_path).items()
    path = database(tmp_path).parent / FOLDER / name
    if kept:
        assert store_of(setting).get(name) == content
    if fault == "gone":
        path.unlink()
    else:
        path.write_bytes(content[:-1])
    with caplog.at_level(logging.ERROR):
        assert store_of(setting).get(name) == (content if kept else None)
    assert ((name in caplog.text) and ("is lost" in caplog.text)) is (not kept and fault == "gone")
    list(setting.grid.push_messages([setting.message("rome", MODEL)]))
    assert files(tmp_path) == {name: content}


def test_a_piece_is_read_once_for_all_sites(
    setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = list(setting.grid.push_messages([setting.message(site, MODEL) for site in SITES]))
    ((name, content),) = files(tmp_path).items()
    read: list[str] = []
    original = BodyStore._read

    def noted(store: BodyStore, object_id: str, length: int) -> memoryview | None:
        read.append(object_id)
        return original(store, object_id, length)

    monkeypatch.setattr(BodyStore, "_read", noted)
    assert all(store_of(setting).get(name) == content for _ in SITES)
    assert read == [name]
    setting.grid.withdraw(sent)
    assert store_of(setting).get(name) is None
    assert store_of(setting)._recent.find(name) is None


def test_a_name_that_is_no_id_deletes_nothing(setting: Setting, tmp_path: Path) -> None:
    """A site says which message it has received."""
    for name in ("../link.sqlite", "../../registry.json", "", "..", "x" * 64):
        store_of(setting).delete(name)
        assert store_of(setting).get(name) is None
    assert database(tmp_path).exists()


def pushed(setting: Setting, content: bytes, identifier: str | None = None) -> bool:
    """Whether the store takes this content for the piece of a reply that it waits for."""
    message = setting.message("paris", MODEL)
    parts, run = take_apart(message), setting.grid.run.run_id
    session = setting.state.start_session(run)
    piece = identifiers(parts.tree)[0]
    _, missing = setting.state.store_message_and_object_tree(parts.head, parts.tree, session)
    assert piece in missing
    return store_object(setting.state, run, session, identifier or piece, content)


@pytest.mark.parametrize("what", ["another", "longer", "unasked"])
def test_only_what_was_asked_for_becomes_a_file(
    setting: Setting, tmp_path: Path, what: str
) -> None:
    parts = take_apart(setting.message("paris", MODEL))
    content = parts.content(identifiers(parts.tree)[0])
    if what == "another":
        assert not pushed(setting, content.replace(b"\x01", b"\x02"))
    elif what == "longer":
        assert not pushed(setting, content + b"x")
    else:
        other = content[:-1] + b"x"
        assert not pushed(setting, other, hashlib.sha256(other).hexdigest())
    assert files(tmp_path) == {}


def test_a_full_disk_is_said_so_and_the_piece_is_taken_when_there_is_room(
    setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = setting.message("paris", MODEL)

    class Full:
        def __enter__(self) -> "Full":
            return self

        def __exit__(self, *_: object) -> None: ...

        def write(self, _: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    def full(handle: int, *_: object, **__: object) -> Full:
        os.close(handle)
        return Full()

    with monkeypatch.context() as patch:
        patch.setattr(body_store, "open", full, raising=False)
        with pytest.raises(FederationError, match=r"/bodies/[0-9a-f]{64}: .*No space left"):
            list(setting.grid.push_messages([message]))
    assert files(tmp_path) == {}
    list(setting.grid.push_messages([setting.message("paris", MODEL)]))
    assert len(files(tmp_path)) == 1


@given(st.binary(max_size=200))
def test_what_is_no_piece_is_none(content: bytes) -> None:
    whole = b"ArrayChunk  %d\x00" % len(content) + content
    assert is_piece(whole) and is_piece(memoryview(whole))
    assert not is_piece(whole + b"x") and not is_piece(b"Array" + whole)
    assert not is_piece(content)
