"""The present registry of a server's home."""

import json
import os
from pathlib import Path

from common.errors import ConfigError
from common.identity import Registry
from common.identity.documents import read_json
from server.home import ServerHome


class RegistryFile:
    """Reads `registry.json` only when it was replaced, since it is used often."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._seen: tuple[int, int] | None = None

    def read(self) -> Registry:
        """Return the registry.

        Raises:
            FederationError, ConfigError: it is not sound.
        """
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
        """Return the registry with the server's signature, as JSON; raises what `read` raises."""
        self.read()
        return self._document
