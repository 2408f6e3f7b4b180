"""Where a deployed site keeps its things."""

from dataclasses import dataclass
from pathlib import Path

from common.identity import Registry


@dataclass(frozen=True)
class SiteHome:
    """A folder with site.yaml, identity/ (keys), kit/ (the server's), approvals/ and state/."""

    folder: Path

    @property
    def site_file(self) -> Path:
        return self.folder / "site.yaml"

    @property
    def node_key(self) -> Path:
        return self.folder / "identity" / "node.key"

    @property
    def signing_key(self) -> Path:
        return self.folder / "identity" / "signing.key"

    @property
    def authority(self) -> Path:
        return self.folder / "kit" / "ca.crt"

    @property
    def state(self) -> Path:
        return self.folder / "state"

    @property
    def paused(self) -> Path:
        """There while the operator of the site wants nothing to leave."""
        return self.state / "paused"

    @property
    def status(self) -> Path:
        return self.state / "status.json"

    @property
    def inflight(self) -> Path:
        """The message being answered; found again after a crash."""
        return self.state / "inflight.pb"

    @property
    def node_number(self) -> Path:
        return self.state / "node"

    @property
    def runner_log(self) -> Path:
        return self.state / "runner.log"

    def registry(self) -> Registry:
        """The kit's registry. Raises FederationError or ConfigError when it is not sound."""
        public = (self.folder / "kit" / "signing.pub").read_text(encoding="utf-8")
        return Registry.read(self.folder / "kit" / "registry.json", public)
