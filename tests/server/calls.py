"""The fleet API's calls for tests of what stands before them."""

from http import HTTPStatus

from server.fleet_api.handlers import Fleet


class Calls(Fleet):
    """Keeps what it is asked, and answers with `content`."""

    def __init__(self) -> None:
        self.read: list[bytes] = []
        self.content = b""

    def answer(self, path: str, key: bytes, body: bytes) -> tuple[HTTPStatus, tuple[bytes]]:
        self.read.append(body)
        return HTTPStatus.OK, (self.content,)
