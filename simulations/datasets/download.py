"""Downloads a file: continues where a connection broke, and checks its digest at the end."""

import hashlib
import http
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from common.backoff import Backoff
from common.errors import DataError

Progress = Callable[[int, int], None]
"""Called with (bytes that have come, bytes in all)."""

_AGAIN = {408, 425, 429, 500, 502, 503, 504}


@dataclass(frozen=True, kw_only=True)
class Retries:
    """How long a failing server is tried."""

    attempts: int = 6
    """The number of tries in a row without a new byte after which the download is given up."""
    first: float = 1.0
    """The seconds before the second try; they double each time, up to `longest`."""
    longest: float = 60.0
    timeout: float = 60.0
    """The seconds without a byte after which a connection counts as broken."""

    def pauses(self) -> Backoff:
        return Backoff(self.first, self.longest)


@dataclass(frozen=True, kw_only=True)
class Remote:
    """A file as its publisher describes it."""

    name: str
    url: str
    size: int
    md5: str


def get(url: str, retries: Retries) -> bytes:
    """Return the content of a small document.

    Raises:
        DataError: it cannot be fetched.
    """
    pauses, failure = retries.pauses(), None
    for attempt in range(retries.attempts):
        if attempt:
            time.sleep(pauses.next())
        try:
            with _response(url, retries.timeout) as response:
                return response.read()
        except httpx.HTTPError as error:
            failure = error
    raise DataError(_given_up(url, failure)) from failure


def download(
    remote: Remote, folder: Path, retries: Retries, progress: Progress | None = None
) -> Path:
    """Download `remote` into `folder`, and return the path of the file, whose MD5 is as published.

    What an earlier try left in `<name>.part` is continued (HTTP Range). A finished file with a
    wrong checksum is deleted and fetched again, once.

    Raises:
        DataError: the server fails for too long or refuses, the checksum is wrong twice, or the
            disk is full.
    """
    path, part = folder / remote.name, folder / f"{remote.name}.part"
    if path.is_file() and _md5(path) == remote.md5:
        return path
    folder.mkdir(parents=True, exist_ok=True)
    for _ in range(2):
        _complete(remote, part, retries, progress)
        found = _md5(part)
        if found == remote.md5:
            part.replace(path)
            return path
        part.unlink()
    raise DataError(
        f"{remote.url}: MD5 is {found}, published as {remote.md5}, twice in a row; "
        "nothing was kept. Try later, or fetch the file by hand and compare"
    )


def _complete(remote: Remote, part: Path, retries: Retries, progress: Progress | None) -> None:
    """Fetch until `part` has the published size."""
    failure: httpx.HTTPError | None = None
    attempt, pauses = 0, retries.pauses()
    while (there := _size(part)) < remote.size:
        if attempt == retries.attempts:
            raise DataError(_given_up(remote.url, failure))
        if attempt:
            time.sleep(pauses.next())
        try:
            _append(remote, part, there, retries.timeout, progress)
        except httpx.HTTPError as error:
            failure = error
        if _size(part) > there:
            attempt, failure = 0, None
            pauses.reset()
        else:
            attempt += 1
    if _size(part) > remote.size:
        part.unlink()
        raise DataError(f"{remote.url}: is longer than the {remote.size} bytes published")


def _append(
    remote: Remote, part: Path, there: int, timeout: float, progress: Progress | None
) -> None:
    """Request the missing bytes and write them; if the connection ends early, return."""
    with _response(remote.url, timeout, there) as response, _told(part):
        # 206 continues from `there`; with 200 the server sends everything, from the start.
        continued = response.status_code == http.HTTPStatus.PARTIAL_CONTENT
        sent = response.headers.get("Content-Range", "")
        if continued and not sent.startswith(f"bytes {there}-"):
            raise httpx.RemoteProtocolError(f"asked for bytes from {there}, got {sent!r}")
        done = there if continued else 0
        with part.open("ab" if continued else "wb") as file:
            for block in response.iter_raw():
                file.write(block)
                done += len(block)
                if progress:
                    progress(done, remote.size)
                if done > remote.size:
                    break


@contextmanager
def _told(part: Path) -> Iterator[None]:
    """Raise DataError for an OSError inside: the disk is at fault, so more tries do not help."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{part}: cannot be written ({error.strerror or error})") from error


@contextmanager
def _response(url: str, timeout: float, start: int = 0) -> Iterator[httpx.Response]:
    """Give the answer to a GET from byte `start` on, before its body is read.

    Raises:
        DataError: another try would not help.
        httpx.HTTPError: another try may help.
    """
    if not url.startswith(("https://", "http://")):
        raise DataError(f"{url}: expected an https address")
    # Uncompressed, because a body that is compressed on the way has another size than published.
    headers = {"User-Agent": "hemofed", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    with (
        _client(url, timeout) as client,
        client.stream("GET", url, headers=headers) as response,
    ):
        said = f"{response.status_code} {response.reason_phrase}"
        if response.status_code in _AGAIN:
            raise httpx.RemoteProtocolError(said)
        if url.startswith("https://") and response.url.scheme != "https":
            raise DataError(f"{url}: leads to {response.url.host} without TLS; nothing was fetched")
        if not response.is_success:
            raise DataError(f"{url}: the server answers {said}")
        yield response


def _client(url: str, timeout: float) -> httpx.Client:
    try:
        return httpx.Client(timeout=timeout, follow_redirects=True)
    except (ImportError, ValueError) as error:
        raise DataError(
            f"{url}: the proxy that HTTPS_PROXY, HTTP_PROXY or ALL_PROXY names cannot be used "
            f"({error}); name one like http://host:port, or none"
        ) from error


def _given_up(url: str, failure: httpx.HTTPError | None) -> str:
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
