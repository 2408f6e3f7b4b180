"""The store of a server home's studies, with what the operator wants of each.

The operator's commands act only by writing these files, which the service reads: there is no
administrative API that anyone could call. Whoever may write to the home may run studies.

studies/<name>-<digest>/study.yaml  the study, whose digest the folder's name holds
                        proposal.json  the study with the server's signature, for the sites
                        wanted      "run", "stop", "finish" or "withdraw"
                        state.json  the study's progress, in words
                        run/        rounds.jsonl, checkpoints/, model.safetensors
"""

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from common.audit.log import AuditLog
from common.config.loading import dump, load
from common.config.study import Study
from common.errors import ConfigError, FederationError, HemofedError
from common.files import write_text
from common.identity import Registry, load_signing_key
from common.identity.documents import read_document, write_document
from common.text import count
from common.wire.proposal import Proposal
from server.home import ServerHome
from server.rounds.suspension import ask_to_lift

PROPOSAL = "proposal.json"
Wanted = Literal["run", "stop", "finish", "withdraw"]
"""What the operator wants of a study. "finish" ends the run with its whole rounds, then tests and
writes the model that is kept; "withdraw" tells the labs to forget the proposal."""
_KEPT = ("round", "rounds", "sites", "reasons", "told")
"""The keys of a study's state that stay when the state changes."""
_OVER = ("completed", "finished")
"""The states in which nothing is left to do."""
RUNS = ("running", "waiting for sites", "waiting for room")
"""The states in which the rounds' process works on the study."""


@dataclass(frozen=True)
class Stored:
    """A study in its folder of the store."""

    folder: Path

    @property
    def file(self) -> Path:
        """The study's YAML."""
        return self.folder / "study.yaml"

    @property
    def out(self) -> Path:
        """The folder of the study's run."""
        return self.folder / "run"

    def study(self) -> Study:
        """Read the study.

        Raises:
            FederationError: it is not the study that the folder was made for.
            ConfigError: it is not a valid study.
        """
        study = load(Study, self.file)
        if self.folder.name != _folder_name(study):
            raise FederationError(
                f"{self.file}: is not the study of digest {self.folder.name[-12:]} any more; it "
                "was changed after it was proposed. Propose it as another study"
            )
        return study

    def proposal(self) -> Proposal:
        """Read the signed study that the sites get.

        Raises:
            FederationError: it is missing, is not signed by this server, or is of another study.
        """
        path = self.folder / PROPOSAL
        if not path.exists():
            raise FederationError(
                f"{path}: is missing; `hemofed server run` with the study's file signs it again"
            )
        proposal = read_document(Proposal, path)
        public = ServerHome(self.folder.parent.parent).signing_public.read_text(encoding="utf-8")
        proposal.check(public, str(path))
        if proposal.study.digest != self.study().digest:
            raise FederationError(f"{path}: is the proposal of another study than {self.file}")
        return proposal

    @property
    def wanted(self) -> Wanted:
        """What the operator wants; "stop" if the file is missing or holds anything else."""
        path = self.folder / "wanted"
        said = path.read_text(encoding="utf-8") if path.exists() else "stop"
        return next((one for one in get_args(Wanted) if one == said), "stop")

    def want(self, wanted: Wanted) -> None:
        """Write down what the service is to do."""
        write_text(self.folder / "wanted", wanted)

    def check_unfinished(self) -> None:
        """Raise ConfigError if the study is over.

        Started again, it would ask every lab and delay the studies behind it, for nothing.
        """
        state = self.said()["state"]
        if state in _OVER:
            raise ConfigError(
                f"{self.folder.name}: is {state}, nothing is left to do; see {self.out}"
            )

    def check_proposed(self) -> None:
        """Raise ConfigError if the study was withdrawn."""
        if self.wanted == "withdraw" or self.said()["state"] == "withdrawn":
            raise ConfigError(
                f"{self.folder.name}: was withdrawn; `hemofed server run` with its file proposes "
                "it again"
            )

    def stop(self) -> None:
        """Want the study stopped after the round under way.

        Raises:
            ConfigError: it does not run.
        """
        self.check_unfinished()
        self.check_proposed()
        if self.wanted == "stop":
            state = self.said()["state"]
            said = "stops after the round under way already" if state in RUNS else f"is {state}"
            raise ConfigError(f"{self.folder.name}: {said}; nothing is to be stopped")
        self.want("stop")

    def resume(self) -> None:
        """Want the study run from its last whole round.

        Raises:
            ConfigError: it is over or withdrawn.
        """
        self.check_unfinished()
        self.check_proposed()
        self.want("run")

    def finish(self) -> None:
        """Want the run ended with its whole rounds, and the model tested and written.

        Raises:
            ConfigError: it runs, has no whole round, or is over.
        """
        self.check_unfinished()
        if self.wanted == "run":
            raise ConfigError(
                f"{self.folder.name}: is to run on; `hemofed server stop` it first, and finish it "
                "when `hemofed server status` says that it is stopped"
            )
        if not self.whole_rounds:
            raise ConfigError(
                f"{self.folder.name}: has no whole round, so there is no model to test and write; "
                "`hemofed server withdraw` takes the proposal back"
            )
        self.want("finish")

    def withdraw(self) -> None:
        """Want the labs to forget the study.

        Raises:
            ConfigError: it has whole rounds, or is over or withdrawn already.
        """
        self.check_unfinished()
        self.check_proposed()
        if self.whole_rounds:
            raise ConfigError(
                f"{self.folder.name}: has {count(self.whole_rounds, 'whole round')}, and is no "
                "mere proposal; `hemofed server stop` ends it, and `hemofed server finish` writes "
                "its model"
            )
        home = self.folder.parent.parent
        with ServerHome(home).open_audit() as log:
            log.append("withdrawn", study=self.folder.name)
        self.want("withdraw")

    @property
    def whole_rounds(self) -> int:
        """The number of rounds that are over and kept."""
        return int(self.said().get("round", 0))

    def lift(self, study: Study, sites: list[str]) -> None:
        """Let the study ask these suspended sites again.

        Raises:
            ConfigError: a site is not in the study's cohort.
        """
        unknown = sorted(set(sites) - set(study.cohort))
        if unknown:
            raise ConfigError(
                f"--lift {', '.join(unknown)}: not in the cohort of {study.name}: "
                f"{', '.join(sorted(study.cohort))}"
            )
        if sites:
            ask_to_lift(self.out, sites)

    def say(self, state: str, **details: Any) -> None:
        """Write the study's state; the keys in `_KEPT` stay as they were unless given."""
        kept = {key: value for key, value in self.said().items() if key in _KEPT}
        write_text(self.folder / "state.json", json.dumps({"state": state} | kept | details))

    def noted(self) -> float:
        """Return when `say` was last called, in seconds of Unix time; 0 if it never was."""
        path = self.folder / "state.json"
        return path.stat().st_mtime if path.exists() else 0.0

    def said(self) -> dict[str, Any]:
        """Return the state that `say` wrote last; "proposed" if there is none."""
        path = self.folder / "state.json"
        if not path.exists():
            return {"state": "proposed"}
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return content


def propose(home: Path, study: Study) -> Stored:
    """Sign and store the study, and return it.

    A study that is stored already stays as it is; one that was withdrawn is proposed again.

    Raises:
        ConfigError: its cohort has no training site, or the server's signing key cannot be used.
    """
    if not any(member.role == "train" for member in study.cohort.values()):
        raise ConfigError(f"study {study.name}: cohort: no site with the role train")
    stored = Stored(ServerHome(home).studies / _folder_name(study))
    if not stored.file.exists():
        write_text(stored.file, dump(study))
    if not (stored.folder / PROPOSAL).exists():
        key = load_signing_key(ServerHome(home).signing_key)
        with AuditLog.open(ServerHome(home).audit, key) as log:
            log.append("proposed", study=study.name, digest=study.digest)
        proposal = Proposal.make(study, key)
        write_document(stored.folder / PROPOSAL, proposal.model_dump(mode="json"))
    if stored.said()["state"] == "withdrawn" or stored.wanted == "withdraw":
        stored.say("proposed", told=[])
        stored.want("stop")
    return stored


def next_wanted(studies: Collection[Stored]) -> Stored | None:
    """Return the first study that is to run or finish, or None; `studies` is sorted by name."""
    return next((stored for stored in studies if stored.wanted in ("run", "finish")), None)


def below_minimum(home: Path, members: Collection[str]) -> list[str]:
    """Return a line for each study that is to run but would have too few training sites.

    A study that cannot be read gets a line, too.

    Args:
        home: the server home.
        members: the sites that would be left to take part.
    """
    lines = []
    for stored in stored_studies(home):
        if stored.wanted != "run":
            continue
        try:
            study = stored.study()
        except HemofedError as error:  # the rounds' process reports it, too; nothing is held up
            lines.append(str(error))
            continue
        train = [name for name, member in study.cohort.items() if member.role == "train"]
        left, least = len(set(train) & set(members)), study.fewest_sites
        if left < least:
            lines.append(
                f"{stored.folder.name}: {left} of the {least} sites that a round needs would be "
                "left, so none would count"
            )
    return lines


def check_members(study: Study, registry: Registry) -> None:
    """Raise ConfigError if the cohort names a site that is not an active member."""
    unknown = sorted(set(study.cohort) - set(registry.active()))
    if unknown:
        members = ", ".join(registry.active()) or "none"
        raise ConfigError(
            f"study {study.name}: cohort: {', '.join(unknown)}: not an active member; members: "
            f"{members}"
        )


def stored_studies(home: Path) -> list[Stored]:
    """Return all studies of the server home, sorted by name."""
    return [Stored(file.parent) for file in sorted(ServerHome(home).studies.glob("*/study.yaml"))]


def find_stored(home: Path, name: str) -> Stored:
    """Return the study whose folder name starts with `name`.

    Raises:
        ConfigError: no study, or more than one, starts so.
    """
    studies = stored_studies(home)
    found = [stored for stored in studies if stored.folder.name.startswith(name)]
    if len(found) != 1:
        known = ", ".join(stored.folder.name for stored in studies) or "none"
        raise ConfigError(
            f"study {name!r}: {len(found)} stored studies begin so; there are: {known}"
        )
    return found[0]


def _folder_name(study: Study) -> str:
    return f"{study.name}-{study.digest[:12]}"
