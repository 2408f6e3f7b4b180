"""The files of a deployed site's home, beside its keys and kit."""

from dataclasses import dataclass
from pathlib import Path

from common.config.study import Site
from common.errors import ConfigError
from common.file_permissions import check_ours


@dataclass(frozen=True)
class SiteHome:
    """A folder with site.yaml, identity/, kit/ (see client.membership), approvals/, state/."""

    folder: Path

    @property
    def site_file(self) -> Path:
        return self.folder / "site.yaml"

    @property
    def audit(self) -> Path:
        """The site's audit log."""
        return self.folder / "audit.jsonl"

    @property
    def approvals(self) -> Path:
        """The decisions, and the text of each study that was approved."""
        return self.folder / "approvals"

    @property
    def decisions(self) -> Path:
        """What people decided about studies (client/consent/decisions.py)."""
        return self.approvals / "decisions.jsonl"

    def declined(self, digest: str) -> Path:
        """Exists while a study was looked at and not approved; holds the reason for the server."""
        return self.approvals / f"{digest}.declined"

    @property
    def proposals(self) -> Path:
        """What the server proposed: one file for each study."""
        return self.folder / "proposals"

    @property
    def state(self) -> Path:
        return self.folder / "state"

    @property
    def paused(self) -> Path:
        """Exists while a person at the site wants it to sit out."""
        return self.state / "paused"

    @property
    def status(self) -> Path:
        """What the running service says of itself."""
        return self.state / "status.json"

    @property
    def studies(self) -> Path:
        """What became of each study at this site (client/service/journal.py)."""
        return self.state / "studies.json"

    @property
    def inflight(self) -> Path:
        """The message that is being answered; the service finds it again after a crash."""
        return self.state / "inflight.pb"

    @property
    def node_number(self) -> Path:
        """The number by which the server knows this site's key."""
        return self.state / "node"

    def check_ours(self, site: Site) -> None:
        """Raise ConfigError when another user may write what this site relies on or remembers.

        `site.yaml`, the policy, the ledger, the log and the caches of the cells may be links; what
        they point to is checked in the same way. The audit log and what is replaced as a whole
        (keys, kit, decisions, proposals and state) may not be links: the link would be replaced,
        and the file that it names would stay behind.
        """
        folders = [self.folder / "identity", self.folder / "kit", self.approvals, self.proposals]
        folders.append(self.state)
        files = [self.audit, *(file for folder in folders for file in folder.rglob("*"))]
        for file in files:
            if file.is_symlink():
                raise ConfigError(f"{file}: is a link; put the file itself there")
        ledger = site.ledger.resolve()
        beside = [ledger.with_name(f"{ledger.name}{end}") for end in ("-wal", "-shm")]
        cells = [file for source in site.cells for file in (source.folder, source.selection)]
        kept = [one for file in filter(None, cells) for one in (file, *file.rglob("*"))]
        check_ours(
            *(self.site_file, site.policy, site.ledger, site.log, site.figures, *beside, *kept),
            *(*folders, *files),
        )

    @property
    def runner_log(self) -> Path:
        """What the runner prints; an error's text is in the site's own log."""
        return self.state / "runner.log"
