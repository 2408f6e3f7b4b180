"""Where a server keeps what it needs: one folder, and what lies in it."""

from dataclasses import dataclass
from pathlib import Path

from common.audit.log import AuditLog
from common.identity import load_signing_key


@dataclass(frozen=True)
class ServerHome:
    """The folder that `hemofed server init` makes (`server.membership.provisioning`)."""

    folder: Path

    @property
    def authority(self) -> Path:
        """The consortium's own certificate authority, which the sites trust."""
        return self.folder / "ca.crt"

    @property
    def authority_key(self) -> Path:
        return self.folder / "ca.key"

    @property
    def certificate(self) -> Path:
        """The port's TLS certificate."""
        return self.folder / "server.crt"

    @property
    def certificate_key(self) -> Path:
        return self.folder / "server.key"

    @property
    def signing_key(self) -> Path:
        """Signs the registry, orders, proposals and the audit log."""
        return self.folder / "signing.key"

    @property
    def signing_public(self) -> Path:
        return self.folder / "signing.pub"

    @property
    def registry(self) -> Path:
        """The consortium's members, signed."""
        return self.folder / "registry.json"

    @property
    def audit(self) -> Path:
        """The server's audit log."""
        return self.folder / "audit.jsonl"

    @property
    def studies(self) -> Path:
        """One folder a study (`server.studies.store`)."""
        return self.folder / "studies"

    @property
    def state(self) -> Path:
        """Flower's database and the bodies of messages (`server.flower`), and who was seen when."""
        return self.folder / "state"

    @property
    def logs(self) -> Path:
        """What the service's processes say."""
        return self.folder / "logs"

    @property
    def service(self) -> Path:
        """What the running service says of itself."""
        return self.folder / "service.json"

    def open_audit(self) -> AuditLog:
        """The audit log, to write to. Raises ConfigError: the signing key cannot be used."""
        return AuditLog.open(self.audit, load_signing_key(self.signing_key))
