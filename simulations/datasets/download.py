"""One file from the network: resumed where it broke, checked, and then whole."""

import hashlib
import http
import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from common.errors import DataError

Progress = Callable[[int, int], None]
"""Called with the bytes there and the bytes in all."""

_BLOCK = 1 << 18
_AGAIN = {408, 425, 429, 500, 502, 503, 504}
_BROKEN = (OSError, http.client.HTTPException)


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long a server that fails is tried."""

    attempts: int = 6
    """Tries in a row that bring no byte, before giving up."""
    pause: float = 1.0
    """Seconds before the second try; doubled each time, up to `longest`."""
    longest: float = 60.0
    timeout: float = 60.0
    """Seconds without a byte after which a connection counts as broken."""

    def before(self, attempt: int) -> float:
        """Seconds to wait before try number `attempt`, counted from 0."""
        return min(self.pause * 2.0 ** (attempt - 1), self.longest) if attempt else 0.0


@dataclass(frozen=True, kw_only=True)
class Remote:
    """A file as its publisher describes it."""

    name: str
    url: str
    size: int
    md5: str


def get(url: str, patience: Patience) -> bytes:
    """A small document. Raises DataError: it cannot be had."""
    failure: BaseException | None = None
    for attempt in range(patience.attempts):
        time.sleep(patience.before(attempt))
        try:
            with _request(url, patience.timeout) as response:
                return bytes(response.read())
        except _BROKEN as error:
            failure = error
    raise DataError(_given_up(url, failure))


def download(
    remote: Remote, folder: Path, patience: Patience, progress: Progress | None = None
) -> Path:
    """`remote` as a file in `folder`, with its size and MD5 as published.

    What an earlier try left in `<name>.part` is continued (HTTP Range). A finished file whose
    checksum is wrong is thrown away and fetched again, once. Raises DataError: the server fails
    for too long or refuses, the checksum is wrong twice, or the disk is full.
    """
    path, part = folder / remote.name, folder / f"{remote.name}.part"
    if path.is_file() and _md5(path) == remote.md5:
        return path
    folder.mkdir(parents=True, exist_ok=True)
    for _ in range(2):
        _complete(remote, part, patience, progress)
        found = _md5(part)
        if found == remote.md5:
            part.replace(path)
            return path
        part.unlink()
    raise DataError(
        f"{remote.url}: MD5 is {found}, published as {remote.md5}, twice in a row; "
        "nothing was kept. Try later, or fetch the file by hand and compare"
    )


def _complete(remote: Remote, part: Path, patience: Patience, progress: Progress | None) -> None:
    """Fetch until `part` has the published size."""
    failure: BaseException | None = None
    attempt = 0
    while (there := _size(part)) < remote.size:
        if attempt == patience.attempts:
            raise DataError(_given_up(remote.url, failure))
        time.sleep(patience.before(attempt))
        try:
            _append(remote, part, there, patience.timeout, progress)
            failure = None
        except _BROKEN as error:
            failure = error
        attempt = 0 if _size(part) > there else attempt + 1
    if _size(part) > remote.size:
        part.unlink()
        raise DataError(f"{remote.url}: is longer than the {remote.size} bytes published")


def _append(
    remote: Remote, part: Path, there: int, timeout: float, progress: Progress | None
) -> None:
    """Ask for what is missing and write it; a connection that ends early just ends it."""
    with _request(remote.url, timeout, there) as response, _told(part):
        # 206 continues from `there`; with 200 the server sends everything, from the start.
        continued = response.status == http.HTTPStatus.PARTIAL_CONTENT
        sent = response.headers.get("Content-Range", "")
        if continued and not sent.startswith(f"bytes {there}-"):
            raise http.client.HTTPException(f"asked for bytes from {there}, got {sent!r}")
        done = there if continued else 0
        with part.open("ab" if continued else "wb") as file:
            while done <= remote.size and (block := _read(response)):
                file.write(block)
                done += len(block)
                if progress:
                    progress(done, remote.size)


class _Lost(http.client.HTTPException):
    """The connection broke while the body came."""


def _read(response: http.client.HTTPResponse) -> bytes:
    try:
        return response.read(_BLOCK)
    except OSError as error:
        raise _Lost(str(error)) from error


@contextmanager
def _told(part: Path) -> Iterator[None]:
    """What goes wrong inside is the disk's fault, not the network's: more tries do not help."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{part}: cannot be written ({error.strerror or error})") from error


def _request(url: str, timeout: float, start: int = 0) -> http.client.HTTPResponse:
    if not url.startswith(("https://", "http://")):
        raise DataError(f"{url}: expected an https address")
    headers = {"User-Agent": "hemofed"} | ({"Range": f"bytes={start}-"} if start else {})
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - the scheme is checked
    try:
        response: http.client.HTTPResponse = urllib.request.urlopen(  # noqa: S310
            request, timeout=timeout
        )
    except urllib.error.HTTPError as error:
        error.close()
        if error.code not in _AGAIN:
            answer = f"the server answers {error.code} {error.reason}"
            raise DataError(f"{url}: {answer}") from error
        raise http.client.HTTPException(f"{error.code} {error.reason}") from error
    return response


def _given_up(url: str, failure: BaseException | None) -> str:
    reason = f" ({failure})" if failure else ""
    return (
        f"{url}: cannot be fetched{reason}; gave up after several tries. "
        "Run the same command again to go on from what has come"
    )


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        # The publisher's checksum; it guards against damage, not against an attacker.
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
