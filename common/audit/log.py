"""The audit log: a record of events in a file that is only appended to.

Each line holds the SHA-256 of the line before it and of itself, and is on disk when `append`
returns. At intervals and at `close`, a line signs the chain up to there with Ed25519. Both sides of
a federation keep a log, and in every round each records the other's signed head, so that neither
can rewrite its own log unnoticed.

| what happened to the file                | how it is found                                       |
|------------------------------------------|-------------------------------------------------------|
| a byte changed, a line put in or removed | `verify` names the line                               |
| lines rewritten with new hashes          | `verify`, at the next signature                       |
| the last lines removed or rewritten      | `verify` with the heads that the other side recorded  |
| a crash in the middle of a line          | the next write removes it and notes that in the log   |
| full disk                                | `append` raises, and leaves no incomplete line        |
"""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from common.audit.append_only_file import AuditFile
from common.audit.entry import (
    BEGINNING,
    KEY_EVENTS,
    SIGN_EVERY,
    Fact,
    check_event,
    make_line,
    seal_message,
)
from common.audit.reader import ChainBreak, present_key
from common.audit.verification import verify
from common.audit.witness import SignedHead, Witnessed, witnessed
from common.errors import FederationError
from common.identity.keys import signing_public_pem
from common.identity.signatures import fingerprint, sign

__all__ = ["AuditLog", "ChainBreak", "SignedHead", "Witnessed", "verify", "witnessed"]

ROTATE_BYTES = 64 * 2**20
"""Size in bytes from which a file is put aside."""
RESERVED = {*KEY_EVENTS, "signature"}
"""Events that only the log itself writes."""


class AuditLog:
    """An open log. Several threads and processes may use one file; each call is atomic."""

    def __init__(self, file: AuditFile, key: Ed25519PrivateKey, rotate_bytes: int) -> None:
        self._file = file
        self._key = key
        self._rotate_bytes = rotate_bytes

    @classmethod
    def open(cls, path: Path, key: Ed25519PrivateKey, *, rotate_bytes: int = ROTATE_BYTES) -> Self:
        """Open the log in `path`, or begin one if there is none.

        Args:
            path: the file.
            key: signs the log.
            rotate_bytes: the size from which the file is put aside.

        Raises:
            FederationError: a line near the end is damaged, the file cannot be written, or another
                key signs the log (`change_key` introduces a new key).
        """
        log = cls(AuditFile(path), key, rotate_bytes)
        log._check_key(present_key(path))
        with log._writing():
            return log

    @property
    def path(self) -> Path:
        """The file that the log writes to."""
        return self._file.path

    @property
    def head(self) -> str:
        """The hash (hex) of the last line, whichever process wrote it."""
        with self._writing() as file:
            return file.head

    def append(self, event: str, **facts: Fact) -> str:
        """Add a line and return its hash (hex). The line is on disk on return.

        After enough lines the call also signs the chain, and it puts a large file aside.

        Raises:
            ValueError: only the log itself writes this event.
            PrivacyError: the event or a fact may not stand in a log (see `check_event`).
            FederationError: the log cannot be written.
        """
        if event in RESERVED:
            raise ValueError(f"audit event {event!r} is the log's own")
        check_event(event, facts)
        with self._writing() as file:
            self._add(file, event, facts)
            head = file.head
            if file.unsigned >= SIGN_EVERY:
                self._sign(file)
            if file.size >= self._rotate_bytes:
                self._rotate(file)
            return head

    def signed_head(self) -> SignedHead:
        """Return the hash of the last line, signed by this log's key, for the other side to record.

        Raises:
            FederationError: the file cannot be opened or written.
        """
        with self._writing() as file:
            return SignedHead(file.head, sign(self._key, seal_message(file.head)))

    def witness(self, other: SignedHead, peer: str, **facts: Fact) -> None:
        """Record a head of the log of `peer`. The caller has checked its signature.

        facts: the message that it came with, such as its kind and round.

        Raises:
            PrivacyError, FederationError: see `append`.
        """
        head = {"head": other.hash, "signature": other.signature}
        self.append("witness", peer=peer, **head, **facts)

    def sign(self) -> None:
        """Add a line that signs the chain, unless the last line is a signature.

        Raises:
            FederationError: the log cannot be written.
        """
        with self._writing() as file:
            self._sign(file)

    def change_key(self, key: Ed25519PrivateKey) -> None:
        """Sign with another key from here on. The present key signs a line that introduces it.

        Raises:
            FederationError: the log cannot be written.
        """
        with self._writing() as file:
            public = signing_public_pem(key)
            message = seal_message(file.head, public)
            self._add(file, "signing_key", {"key": public, "signature": sign(self._key, message)})
            self._key = key
            self._sign(file)

    def rotate(self) -> Path:
        """Put the file aside under a numbered name, which is returned, and begin a new file.

        Raises:
            FederationError: the log cannot be written, or the file cannot be put aside.
        """
        with self._writing() as file:
            return self._rotate(file)

    def close(self) -> None:
        """Sign the chain and close the file."""
        try:
            self.sign()
        finally:
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @contextmanager
    def _writing(self) -> Iterator[AuditFile]:
        """Hold the lock; the file has a first line, and the key that signs it is this log's."""
        with self._file.locked() as file:
            if file.size == 0:
                facts: dict[str, Fact] = {
                    "log": secrets.token_hex(8),
                    "key": signing_public_pem(self._key),
                }
                file.write(make_line(0, _time(), "begin", facts, BEGINNING))
            self._check_key(file.key)
            if file.cut:
                self._add(file, "half_line_removed", {"bytes": file.cut})
                file.cut = 0
            yield file

    def _check_key(self, known: str | None) -> None:
        if known and known != signing_public_pem(self._key):
            raise FederationError(
                f"{self.path}: is signed by the key {fingerprint(known)}, not by "
                f"{fingerprint(self._key.public_key())}. If the keys were changed, restart what "
                "still has the old one; else give this home its key back, or move the file aside "
                "and keep it"
            )

    def _add(self, file: AuditFile, event: str, facts: dict[str, Fact]) -> None:
        file.write(make_line(file.next, _time(), event, facts, file.head))

    def _sign(self, file: AuditFile) -> None:
        if file.unsigned:
            signature = sign(self._key, seal_message(file.head))
            self._add(file, "signature", {"signature": signature})

    def _rotate(self, file: AuditFile) -> Path:
        self._sign(file)
        archive = file.path.with_name(f"{file.path.stem}-{file.next:09d}{file.path.suffix}")
        facts: dict[str, Fact] = {"file": archive.name, "key": signing_public_pem(self._key)}
        file.replace(archive, make_line(file.next, _time(), "continues", facts, file.head))
        return archive


def _time() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
