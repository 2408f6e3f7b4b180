"""Flower's object store, with the pieces of vectors in files beside its database.

SQLite writes a piece twice, to its journal and to its pages, copies it at each read, and blocks
other writers meanwhile. A file is written once and read without them. The database still
records which objects exist, which have come, and what needs them: a file counts only if the
database names it.
"""

import hashlib
import logging
import os
from pathlib import Path
from typing import Any, cast

import numpy as np

from common.errors import FederationError
from common.files import make_folder
from common.wire.flower_internals import ObjectTree
from common.wire.flower_objects import Buffer, identifiers, is_identifier, is_piece
from server.flower.internals import LinkState, SqlObjectStore, validate_object_content
from server.flower.recent_pieces import RecentPieces

FOLDER = "bodies"
_IN_FILE = b"in a file, bytes: "
"""What the database holds in place of a piece's content, followed by its length. It cannot be
mistaken for an object, because every object has a NUL byte."""
_FILES = "SELECT object_id FROM objects WHERE substr(content, 1, :length) = :mark"
_LOST = "UPDATE objects SET content = x'', is_available = 0 WHERE object_id = :name"
_log = logging.getLogger("hemofed.superlink")


class BodyStore(SqlObjectStore):
    """The store in `database`, with files in the folder FOLDER beside it, named by object id.

    A file is written or deleted within the transaction of the database's only writer. If the
    process is killed in between, there are two cases: the row says that nothing has come, and the
    next store that is opened deletes the file; or the file of a piece that was being deleted is
    missing, and the piece is requested again when it is needed. Neither rows nor files are synced
    against a power cut: the round that it cuts off starts anew.
    """

    def __init__(self, database: Path) -> None:
        super().__init__(str(database), verify=False)  # `put` verifies
        self._folder = database.parent / FOLDER
        self._fault: FederationError | None = None
        self._recent = RecentPieces()

    def initialize(self, log_queries: bool = False, **engine_kwargs: Any) -> list[str]:
        """Connect, make the tables and the folder, and delete files that no row names."""
        tables = super().initialize(log_queries, **engine_kwargs)
        make_folder(self._folder)
        with self._mutation_session():
            said = {"length": len(_IN_FILE), "mark": _IN_FILE}
            kept = {row["object_id"] for row in self.query(_FILES, said)}
            for path in self._folder.iterdir():
                if path.name not in kept:
                    path.unlink()
        return tables

    def preregister(self, run_id: int, object_tree: ObjectTree) -> list[str]:
        """Return the ids of the tree's objects that are missing; the store waits for them from now
        on."""
        with self._mutation_session():
            for name in identifiers(object_tree):
                if self._lacks(name):
                    self.query(_LOST, {"name": name})
            return super().preregister(run_id, object_tree)

    def put(self, object_id: str, object_content: Buffer) -> None:
        """Store an object that the store waits for.

        Raises:
            ValueError: its digest is not `object_id`, or it is not in Flower's form.
            FederationError: it cannot be written.
        """
        if hashlib.sha256(object_content).hexdigest() != object_id:
            raise ValueError(f"object {object_id:.12}: its content is another one's")
        if is_piece(object_content):
            self._put_piece(object_id, object_content)
        else:
            validate_object_content(content := bytes(object_content))
            super().put(object_id, content)

    def get(self, object_id: str) -> bytes | None:
        """Return the object's content: b"" if it has not come yet, None if there is no such object.

        The content of a piece is a memoryview of what its file holds.
        """
        content = super().get(object_id)
        if content is None or not content.startswith(_IN_FILE):
            return content
        piece = self._recent.find(object_id)
        if piece is None and (piece := self._read(object_id, _length(content))) is not None:
            self._recent.keep(object_id, piece)
        return cast(bytes | None, piece)

    def delete(self, object_id: str) -> None:
        """Delete an object that nothing needs, and the objects that only it needed."""
        with self._mutation_session():
            known = object_id in self  # a site may name something that is not an id
            super().delete(object_id)
            self._recent.drop(object_id)
            if known and is_identifier(object_id) and object_id not in self:
                self._path(object_id).unlink(missing_ok=True)

    def raise_fault(self) -> None:
        """Raise the FederationError that prevented a piece from being stored, once, if any."""
        fault, self._fault = self._fault, None
        if fault is not None:
            raise fault

    def _lacks(self, object_id: str) -> bool:
        """Return whether the piece has come and its file is lost."""
        content = super().get(object_id)
        if content is None or not content.startswith(_IN_FILE):
            return False
        try:
            return self._path(object_id).stat().st_size != _length(content)
        except OSError:
            return True

    def _put_piece(self, object_id: str, content: Buffer) -> None:
        with self._mutation_session():
            if super().get(object_id) == b"":
                self._write(object_id, content)
            super().put(object_id, _IN_FILE + str(len(content)).encode())

    def _write(self, object_id: str, content: Buffer) -> None:
        path = self._path(object_id)
        path.unlink(missing_ok=True)  # left by a killed process; existing maps of it stay valid
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with open(handle, "wb", buffering=0) as file:
                left = memoryview(content)
                while left:
                    left = left[file.write(left) :]
        except OSError as error:
            path.unlink(missing_ok=True)
            self._fault = FederationError(
                f"{path}: a piece of a vector cannot be written ({error.strerror}); make "
                "room on its disk, or mend it"
            )
            raise self._fault from error

    def _read(self, object_id: str, length: int) -> memoryview | None:
        path = self._path(object_id)
        whole = np.empty(length, np.uint8)
        try:
            # Not mapped: a disk that cannot be read would end the process, not raise an error.
            with path.open("rb", buffering=0) as file:
                found = file.readinto(whole.data)
        except OSError as error:
            _log.error("%s: a piece of a vector is lost (%s)", path, error)
            return None
        return whole.data.toreadonly() if found == length else None

    def _path(self, object_id: str) -> Path:
        """Raises ValueError: no id, but another word, which might lead elsewhere."""
        if not is_identifier(object_id):
            raise ValueError(f"{object_id!r:.80}: is no object's id")
        return self._folder / object_id


def _length(content: bytes) -> int:
    """Return the number of bytes of the piece that the database's `content` stands for."""
    return int(content[len(_IN_FILE) :])


def store_object(
    state: LinkState, run: int, session: str, identifier: str, content: Buffer
) -> bool:
    """Put an object into the state's store; return False if nothing waits for it.

    Raises:
        FederationError: it cannot be written, which Flower would report only as False. The store
            still waits for it.
    """
    stored = state.store_object(run, session, identifier, cast(bytes, content))
    if not stored and isinstance(state.object_store, BodyStore):
        state.object_store.raise_fault()
    return stored
