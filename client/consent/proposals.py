"""The studies that the server proposed to this site; a person here has yet to decide on them."""

from pathlib import Path

from client.home import SiteHome
from client.membership.membership import Membership
from common.errors import ConfigError, FederationError
from common.identity.documents import read_document, write_document
from common.wire.proposal import Proposal

MOST = 100
"""Most proposals kept at once: a server that proposes without end does not fill the disk."""


class Proposals:
    """The folder `proposals` of a site's home; the site's server has signed everything in it."""

    def __init__(self, home: SiteHome) -> None:
        self._home = home

    def keep(self, proposal: Proposal, origin: str) -> None:
        """Keep a proposal that the site's server signed; one that is kept already stays as it is.

        origin: where it came from, for the error. Raises FederationError when the server did not
        sign it, or too many are kept.
        """
        path = self._path(proposal)
        if path.exists():
            return
        proposal.check(Membership.load(self._home.folder).server_public_key, origin)
        if len(self._files()) >= MOST:
            raise FederationError(
                f"{self._home.proposals}: holds {MOST} proposals already; study "
                f"{proposal.study.name} is not kept; remove those that are not wanted"
            )
        write_document(path, proposal.model_dump(mode="json"))

    def drop(self, digest: str) -> None:
        """Forget a proposal that its operator took back."""
        (self._home.proposals / f"{digest}.json").unlink(missing_ok=True)

    def all(self) -> list[Proposal]:
        """The proposals, sorted by name. Raises FederationError when a file was altered."""
        found = [self.read(path) for path in self._files()]
        return sorted(found, key=lambda one: (one.study.name, one.study.digest))

    def find(self, wanted: str) -> Proposal:
        """The proposal in the file `wanted`, or the kept one with that name or start of a digest.

        Raises FederationError when this site's server did not sign it, and ConfigError when there
        is none, or several.
        """
        if Path(wanted).is_file():
            return self._given(Path(wanted))
        found = [
            one for one in self.all() if wanted in (one.study.name, one.study.digest[: len(wanted)])
        ]
        if len(found) != 1:
            known = ", ".join(f"{one.study.name} ({one.study.digest:.12})" for one in self.all())
            raise ConfigError(
                f"study {wanted!r}: is no file, and {len(found)} proposals are called so; there "
                f"are: {known or 'none'}"
            )
        return found[0]

    def read(self, path: Path) -> Proposal:
        """The proposal in a file. Raises FederationError unless this site's server signed it."""
        proposal = read_document(Proposal, path)
        proposal.check(Membership.load(self._home.folder).server_public_key, str(path))
        return proposal

    def _given(self, path: Path) -> Proposal:
        """The proposal in a file that a person named, and may have mistaken for one."""
        try:
            read_document(Proposal, path)
        except FederationError as error:
            raise FederationError(
                f"{path}: is no proposal; give the proposal.json that the operator has from "
                "`hemofed server run`, or a study's name as `hemofed site studies` lists it"
            ) from error
        return self.read(path)

    def _files(self) -> list[Path]:
        return sorted(self._home.proposals.glob("*.json"))

    def _path(self, proposal: Proposal) -> Path:
        return self._home.proposals / f"{proposal.study.digest}.json"
