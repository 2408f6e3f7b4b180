"""The registry of a server's home, as it is at this moment."""

import json
import os
from pathlib import Path

from common.errors import ConfigError
from common.identity import Registry
from common.identity.documents import read_json
from server.home import ServerHome


class RegistryFile:
    """Reads `registry.json` again when it was replaced, and only then: it is asked for a lot."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._seen: tuple[int, int] | None = None

    def read(self) -> Registry:
        """The registry. Raises FederationError or ConfigError when it is not sound."""
        try:
            found = os.stat(ServerHome(self._home).registry)
        except OSError as error:
            raise ConfigError(
                f"{self._home / 'registry.json'}: cannot be read ({error.strerror})"
            ) from error
        stamp = found.st_ino, found.st_mtime_ns
        if stamp != self._seen:
            self._registry = Registry.load(self._home)
            self._document = json.dumps(read_json(ServerHome(self._home).registry))
            self._seen = stamp
        return self._registry

    def document(self) -> str:
        """The registry with the server's signature, as JSON. Raises as `read` does."""
        self.read()
        return self._document
