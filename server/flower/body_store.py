"""Flower's object store, with the pieces of vectors in files beside its database.

SQLite writes a piece to its journal and again to its pages, copies it at each read, and holds up
all others meanwhile. A file is written once and mapped, not read. The database goes on to say which
objects there are, which of them have come, and who needs them: a file counts only where it says so.
"""

import hashlib
import logging
import mmap
import os
import re
from pathlib import Path
from typing import Any, cast

from common.errors import FederationError
from common.files import make_folder
from common.wire.flower_internals import ObjectTree
from common.wire.flower_objects import Buffer, identifiers, is_piece
from server.flower.internals import LinkState, SqlObjectStore, validate_object_content

FOLDER = "bodies"
_IN_FILE = b"in a file, bytes: "
"""In the place of a piece's content, before its length. No object is this: each has a NUL byte."""
_FILES = "SELECT object_id FROM objects WHERE substr(content, 1, :length) = :mark"
_LOST = "UPDATE objects SET content = x'', is_available = 0 WHERE object_id = :name"
_ID = re.compile(r"[0-9a-f]{64}")
"""The SHA-256 of an object, in hex: nothing else becomes a file's name."""
_log = logging.getLogger("hemofed.superlink")


class BodyStore(SqlObjectStore):
    """The store in `database`; its files lie in the folder FOLDER beside it, named by their ids.

    A file is written, and goes, while the database's one writer waits for it: when a process is
    killed in between, either the row says that nothing has come, and the next store to be opened
    removes the file, or the file of a piece that was about to go is missing, and it is asked for
    again when it is needed. As with the rows, no power cut is waited for: the round that it cuts
    off is begun anew.
    """

    def __init__(self, database: Path) -> None:
        super().__init__(str(database), verify=False)  # by `put`
        self._folder = database.parent / FOLDER
        self._fault: FederationError | None = None

    def initialize(self, log_queries: bool = False, **engine_kwargs: Any) -> list[str]:
        """Connect, make the tables and the folder, and remove files that no row speaks of."""
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
        """The objects of the tree that are not here, and are waited for from now on."""
        with self._mutation_session():
            for name in identifiers(object_tree):
                if self.get(name) is None and name in self:
                    self.query(_LOST, {"name": name})
            return super().preregister(run_id, object_tree)

    def put(self, object_id: str, object_content: Buffer) -> None:
        """Store an object that is waited for.

        Raises ValueError: it is not of that id, or not in Flower's form.
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
        """The object; b"" while it has not come, None when there is none. Of a piece, a memoryview
        of its file, which is there for as long as the view is."""
        content = super().get(object_id)
        if content is None or not content.startswith(_IN_FILE):
            return content
        return cast(bytes | None, self._mapped(object_id, int(content[len(_IN_FILE) :])))

    def delete(self, object_id: str) -> None:
        """Delete an object that nobody needs, and those that it alone needed."""
        with self._mutation_session():
            known = object_id in self  # what a site names need not be an id
            super().delete(object_id)
            if known and _ID.fullmatch(object_id) and object_id not in self:
                self._path(object_id).unlink(missing_ok=True)

    def raise_fault(self) -> None:
        """Raise, once, the FederationError that kept a piece from being stored."""
        fault, self._fault = self._fault, None
        if fault is not None:
            raise fault

    def _put_piece(self, object_id: str, content: Buffer) -> None:
        with self._mutation_session():
            if super().get(object_id) == b"":
                self._write(object_id, content)
            super().put(object_id, _IN_FILE + str(len(content)).encode())

    def _write(self, object_id: str, content: Buffer) -> None:
        path = self._path(object_id)
        path.unlink(missing_ok=True)  # of a process that was killed; what maps it keeps it
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

    def _mapped(self, object_id: str, length: int) -> memoryview | None:
        path = self._path(object_id)
        try:
            with path.open("rb") as file:
                whole = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except (OSError, ValueError) as error:  # ValueError: of an empty file
            _log.error("%s: a piece of a vector is lost (%s)", path, error)
            return None
        return whole if len(whole) == length else None

    def _path(self, object_id: str) -> Path:
        """Raises ValueError: no id, but another word, which might lead elsewhere."""
        if _ID.fullmatch(object_id) is None:
            raise ValueError(f"{object_id!r:.80}: is no object's id")
        return self._folder / object_id


def store_object(
    state: LinkState, run: int, session: str, identifier: str, content: Buffer
) -> bool:
    """Put an object into the state's store; False: nobody waits for it.

    Raises FederationError where it cannot be written, of which Flower says no more than False; it
    is waited for as before.
    """
    stored = state.store_object(run, session, identifier, cast(bytes, content))
    if not stored and isinstance(state.object_store, BodyStore):
        state.object_store.raise_fault()
    return stored
