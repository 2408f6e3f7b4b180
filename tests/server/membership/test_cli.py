"""`hemofed server` and `hemofed site`: from two empty folders to a member, as people type it."""

import json
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from client.consent.eligibility import taking_part
from client.ledger.binding import data_fingerprint
from client.ledger.data_mark import marks
from client.ledger.ledger import Ledger
from client.membership.membership import Membership
from client.site import open_site
from common.config.loading import load
from common.config.study import Study
from common.errors import ConfigError, FederationError, HemofedError
from common.identity.keys import node_public_pem
from common.identity.registry import Registry
from server.studies.store import propose

if TYPE_CHECKING:
    from click.testing import Result

FINGERPRINT = re.compile(r"(?:[0-9a-f]{4} ){7}[0-9a-f]{4}")


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., "Result"]:
    """Run `hemofed ...` in this process, in an empty folder; an error of ours is raised."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("HEMOFED_PASSPHRASE", raising=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import typer
        from typer.testing import CliRunner

        from client.membership.cli import app as site
        from common.audit.cli import verify_command
        from server.membership.cli import app as server
        from simulations.demo.cli import init_command
    root = typer.Typer()
    group = typer.Typer()
    group.command("init")(init_command)
    group.add_typer(server)
    root.add_typer(site, name="site")
    root.add_typer(group, name="server")
    root.command("verify")(verify_command)

    def run(*words: object, answer: str | None = None) -> "Result":
        result = CliRunner().invoke(root, [str(word) for word in words], input=answer)
        if isinstance(result.exception, HemofedError):
            raise result.exception
        return result

    return run


def told(result: "Result") -> str:
    found = FINGERPRINT.findall(result.stdout)
    assert result.exit_code == 0 and len(set(found)) == 1
    return str(found[0])


def test_two_people_and_a_telephone(command: Callable[..., "Result"]) -> None:
    server = told(command("server", "init", "srv", "--address", "fl.example.org:9092"))
    lab = told(command("site", "init", "lab", "--name", "munich"))
    assert told(command("site", "request", "lab", "--out", "ask.json")) == lab
    assert "PRIVATE" not in Path("ask.json").read_text()
    asked = command("server", "add-site", "srv", "ask.json", answer="n\n")
    assert asked.exit_code == 1 and lab in asked.stdout and not Path("munich.kit.json").exists()
    added = command("server", "add-site", "srv", "ask.json", answer="y\n")
    assert FINGERPRINT.findall(added.stdout) == [lab, server]
    assert "PRIVATE" not in Path("munich.kit.json").read_text()
    with pytest.raises(FederationError, match="fingerprint"):
        command("site", "join", "lab", "munich.kit.json", "--fingerprint", lab)
    join = command("site", "join", "lab", "munich.kit.json", answer=f"{server.upper()}\n")
    assert "joined fl.example.org:9092" in join.stdout and lab in join.stdout
    listed = command("server", "list-sites", "srv").stdout
    assert lab in listed and server in listed and "warning" not in listed


def test_a_forged_request_is_refused_before_anybody_is_asked_and_leaves_a_line(
    command: Callable[..., "Result"],
) -> None:
    command("server", "init", "srv", "--address", "localhost:9092")
    for name in ("munich", "berlin"):
        command("site", "init", name, "--name", name)
        command("site", "request", name)
    asked, other = (json.loads(Path(f"{n}.request.json").read_text()) for n in ("munich", "berlin"))
    asked["signature"] = other["signature"]
    Path("munich.request.json").write_text(json.dumps(asked))
    with pytest.raises(FederationError, match="request of munich: the signature does not fit"):
        command("server", "add-site", "srv", "munich.request.json")
    rows = map(json.loads, Path("srv/audit.jsonl").read_text().splitlines())
    (line,) = [row["facts"] for row in rows if row["event"] == "admission_refused"]
    assert line == {"site": "munich"}
    assert Registry.load(Path("srv")).sites == {}


def test_rotation_renewal_and_revocation(command: Callable[..., "Result"]) -> None:
    server = told(command("server", "init", "srv", "--address", "localhost:9092"))
    command("site", "init", "lab", "--name", "munich")
    command("site", "request", "lab")
    command("server", "add-site", "srv", "munich.request.json", "--yes")
    command("site", "join", "lab", "munich.kit.json", "--fingerprint", server)
    before = Membership.load(Path("lab")).member.node_public_key
    command("site", "request", "lab", "--rotate")
    changed = command("server", "add-site", "srv", "munich.request.json", "--yes")
    assert "munich: keys changed" in changed.stdout
    command("site", "join", "lab", "munich.kit.json", "--fingerprint", server)
    membership = Membership.load(Path("lab"))
    assert node_public_pem(membership.node_key()) == membership.member.node_public_key != before
    command("server", "renew", "srv", "--site", "munich", "--days", "7")
    found = json.loads(command("server", "list-sites", "srv", "--json").stdout)
    assert found["sites"]["munich"]["keys"] == "2" and "ends in 6 days" in found["warnings"][0]
    assert "a running server takes it up" in command("server", "renew", "srv").stdout
    moved = command("server", "renew", "srv", "--address", "fl.example.org:1").stdout
    assert "Send every site its kit" in moved
    assert command("server", "revoke-site", "srv", "munich", answer="n\n").exit_code == 1
    assert "0 members" in command("server", "revoke-site", "srv", "munich", "--yes").stdout
    assert Registry.load(Path("srv")).sites["munich"].status == "revoked"
    for key in (["srv/registry.json", "--site", "munich"], ["lab/identity/request.json"]):
        assert command("verify", "lab/audit.jsonl", "--key", *key).exit_code == 0
    assert command("verify", "srv/audit.jsonl", "--key", "srv/signing.pub").exit_code == 0


def test_revoking_says_first_what_it_does_to_studies_and_who_the_members_are(
    command: Callable[..., "Result"],
) -> None:
    command("server", "init", "srv", "--address", "127.0.0.1:9092")
    for name in ("munich", "ulm"):
        command("site", "init", name, "--name", name)
        command("site", "request", name)
        command("server", "add-site", "srv", f"{name}.request.json", "--yes")
    with pytest.raises(ConfigError, match="is not a member; members: munich, ulm"):
        command("server", "revoke-site", "srv", "nothere")
    cohort = {name: {"units": 20} for name in ("munich", "ulm")}
    needs_both = {"name": "first", "cohort": cohort, "round": {"min_sites": 2}}
    stored = propose(Path("srv"), Study.model_validate(needs_both))
    stored.want("run")
    said = command("server", "revoke-site", "srv", "ulm", answer="n\n").output
    line, _ = said.split("Revoke ulm?")
    assert f"{stored.folder.name}: 1 of the 2 sites that a round needs would be left" in line
    assert Registry.load(Path("srv")).sites["ulm"].status == "active"


def test_verify_names_the_line(command: Callable[..., "Result"]) -> None:
    command("server", "init", "srv", "--address", "localhost:9092")
    path = Path("srv/audit.jsonl")
    path.write_text(path.read_text().replace("localhost", "localhosT"))
    with pytest.raises(FederationError, match=r"srv/audit.jsonl: line 2 does not fit its own hash"):
        command("verify", path, "--key", "srv/signing.pub")
    with pytest.raises(ConfigError, match="--site x: is not in"):
        command("verify", path, "--key", "srv/registry.json", "--site", "x")


def test_a_demonstration_is_joined_at_once(command: Callable[..., "Result"]) -> None:
    assert command("server", "init", "demo", "--demo", "3").exit_code == 0
    registry = Registry.load(Path("demo/server"))
    assert registry.address == "127.0.0.1:9092"
    assert sorted(path.name for path in Path("demo").iterdir()) == [
        *("server", "site-1", "site-2", "site-3", "study.yaml")
    ]
    for name, member in registry.active().items():
        membership = Membership.load(Path("demo") / name)
        assert node_public_pem(membership.node_key()) == member.node_public_key
        assert membership.registry == registry
    study = load(Study, Path("demo/study.yaml"))
    assert set(study.cohort) == set(registry.active()) and study.round.min_sites == 3
    for name, member in study.cohort.items():
        site = open_site(Path("demo") / name / "site.yaml")
        with Ledger.open(site.ledger, data_fingerprint(site)) as ledger:
            assert ledger.verify() == 1
        told = {mark.place.parent.name: mark.ledger for mark in marks(site)}
        assert {"cells", "images"} < set(told), "nor from their images, nor from one type of them"
        assert set(told.values()) == {site.ledger}
        assert taking_part(site, study).differs is None and member.units > 5
    with pytest.raises(ConfigError, match="exists already"):
        command("server", "init", "demo", "--demo", "3")


def test_options_that_do_not_go_together(command: Callable[..., "Result"]) -> None:
    with pytest.raises(ConfigError, match="--address: give the host:port"):
        command("server", "init", "srv")
    with pytest.raises(ConfigError, match="one at a time"):
        command("server", "renew", "srv", "--site", "a", "--address", "b:1")


def test_keys_are_encrypted_when_a_passphrase_is_given(
    command: Callable[..., "Result"], monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = iter(["secret", "secret", "one", "other"])
    monkeypatch.setattr("getpass.getpass", lambda _: next(entries))
    monkeypatch.setenv("HEMOFED_PASSPHRASE", "")
    assert command("site", "init", "lab", "--name", "munich", "--passphrase").exit_code == 0
    for key in ("node.key", "signing.key"):
        assert "ENCRYPTED" in (Path("lab/identity") / key).read_text()
    with pytest.raises(ConfigError, match="encrypted; set HEMOFED_PASSPHRASE"):
        command("site", "request", "lab", "--rotate")
    with pytest.raises(ConfigError, match="the two entries differ"):
        command("site", "init", "lab2", "--name", "munich", "--passphrase")
    assert not Path("lab2").exists()
