"""The studies of a server home, and what the operator wants of each.

The operator's commands only write these files, and the service only reads them: there is no
administrative API that anyone could call. Who may write to the home may run studies.

studies/<name>-<digest>/study.yaml  the study, as its digest says
                        proposal.json  the study with the server's signature, for the sites
                        wanted      "run", "stop", "finish" or "withdraw"
                        state.json  how far it is, in words
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
"""finish: test and write the model of the last whole round. withdraw: the labs are to forget it."""
_KEPT = ("round", "rounds", "sites", "reasons", "told")
"""What is still said of a study while it waits, and when it is over."""
_OVER = ("completed", "finished")
RUNS = ("running", "waiting for sites", "waiting for room")
"""States in which the rounds' process is at it."""


@dataclass(frozen=True)
class Stored:
    """A study in its folder."""

    folder: Path

    @property
    def file(self) -> Path:
        return self.folder / "study.yaml"

    @property
    def out(self) -> Path:
        return self.folder / "run"

    def study(self) -> Study:
        """The study. Raises FederationError when it is not the one that the folder was made for."""
        study = load(Study, self.file)
        if self.folder.name != _folder_name(study):
            raise FederationError(
                f"{self.file}: is not the study of digest {self.folder.name[-12:]} any more; it "
                "was changed after it was proposed. Propose it as another study"
            )
        return study

    def proposal(self) -> Proposal:
        """The study as the sites get it. Raises FederationError when it is not the server's own."""
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
        path = self.folder / "wanted"
        said = path.read_text(encoding="utf-8") if path.exists() else "stop"
        return next((one for one in get_args(Wanted) if one == said), "stop")

    def want(self, wanted: Wanted) -> None:
        """Say what the service shall do."""
        write_text(self.folder / "wanted", wanted)

    def check_unfinished(self) -> None:
        """Raise ConfigError when the study is over: started again it would ask each lab, and hold
        back the studies behind it, for nothing."""
        state = self.said()["state"]
        if state in _OVER:
            raise ConfigError(
                f"{self.folder.name}: is {state}, nothing is left to do; see {self.out}"
            )

    def check_proposed(self) -> None:
        """Raise ConfigError when the study was withdrawn."""
        if self.wanted == "withdraw" or self.said()["state"] == "withdrawn":
            raise ConfigError(
                f"{self.folder.name}: was withdrawn; `hemofed server run` with its file proposes "
                "it again"
            )

    def stop(self) -> None:
        """Want it stopped after the round under way. Raises ConfigError: it does not run."""
        self.check_unfinished()
        self.check_proposed()
        if self.wanted == "stop":
            state = self.said()["state"]
            said = "stops after the round under way already" if state in RUNS else f"is {state}"
            raise ConfigError(f"{self.folder.name}: {said}; nothing is to be stopped")
        self.want("stop")

    def resume(self) -> None:
        """Want it run from its last whole round. Raises ConfigError: it runs, or is over."""
        self.check_unfinished()
        self.check_proposed()
        self.want("run")

    def finish(self) -> None:
        """Want the model of its last whole round. Raises ConfigError: it runs, or has none."""
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
        """Want it forgotten by the labs. Raises ConfigError: it has rounds, or is withdrawn."""
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
        """Rounds that are over and kept."""
        return int(self.said().get("round", 0))

    def lift(self, study: Study, sites: list[str]) -> None:
        """Let suspended sites be asked again. Raises ConfigError: not in the study's cohort."""
        unknown = sorted(set(sites) - set(study.cohort))
        if unknown:
            raise ConfigError(
                f"--lift {', '.join(unknown)}: not in the cohort of {study.name}: "
                f"{', '.join(sorted(study.cohort))}"
            )
        if sites:
            ask_to_lift(self.out, sites)

    def say(self, state: str, **details: Any) -> None:
        """Note how far the study is; what is `_KEPT` stays as it was unless it is given."""
        kept = {key: value for key, value in self.said().items() if key in _KEPT}
        write_text(self.folder / "state.json", json.dumps({"state": state} | kept | details))

    def noted(self) -> float:
        """When `say` was called last, in seconds of Unix time; 0: never."""
        path = self.folder / "state.json"
        return path.stat().st_mtime if path.exists() else 0.0

    def said(self) -> dict[str, Any]:
        """What `say` noted last."""
        path = self.folder / "state.json"
        if not path.exists():
            return {"state": "proposed"}
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return content


def propose(home: Path, study: Study) -> Stored:
    """Sign and store the study; again the same one, when it is there.

    One that was withdrawn is proposed again. Raises ConfigError: no cohort, or the server's signing
    key cannot be used.
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
    """The study that the rounds' process turns to: one at a time, by name."""
    return next((stored for stored in studies if stored.wanted in ("run", "finish")), None)


def below_minimum(home: Path, members: Collection[str]) -> list[str]:
    """What is to be known of the studies that are to run, and are not over, if `members` are all
    that can take part: a line on each whose minimum they miss."""
    lines = []
    for stored in stored_studies(home):
        if stored.wanted != "run":
            continue
        try:
            study = stored.study()
        except HemofedError as error:  # the rounds' process says it too; nobody is kept in for it
            lines.append(str(error))
            continue
        train = [name for name, member in study.cohort.items() if member.role == "train"]
        left, least = len(set(train) & set(members)), study.round.min_sites
        if left < least:
            lines.append(
                f"{stored.folder.name}: {left} of the {least} sites that a round needs would be "
                "left, so none would count"
            )
    return lines


def check_members(study: Study, registry: Registry) -> None:
    """Raise ConfigError when the cohort names a site that cannot connect."""
    unknown = sorted(set(study.cohort) - set(registry.active()))
    if unknown:
        members = ", ".join(registry.active()) or "none"
        raise ConfigError(
            f"study {study.name}: cohort: {', '.join(unknown)}: not an active member; members: "
            f"{members}"
        )


def stored_studies(home: Path) -> list[Stored]:
    """All studies, by name."""
    return [Stored(file.parent) for file in sorted(ServerHome(home).studies.glob("*/study.yaml"))]


def find_stored(home: Path, name: str) -> Stored:
    """The study that `name` begins (its name or folder). Raises ConfigError: none, or several."""
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
