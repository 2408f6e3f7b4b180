"""Two logs that witness each other: neither can be rewritten alone, and no head be made up."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

import hemofed
from common.audit.entry import BEGINNING, make_line, seal_message
from common.audit.log import AuditLog, SignedHead, Witnessed, verify, witnessed
from common.audit.witness import last_heads
from common.errors import ConfigError, FederationError
from common.identity.keys import make_signing_key, signing_public_pem
from common.identity.signatures import sign

SITE, SERVER = make_signing_key(), make_signing_key()
SITE_PUBLIC, SERVER_PUBLIC = signing_public_pem(SITE), signing_public_pem(SERVER)
ROUNDS = 6

Change = Callable[[list[dict[str, object]]], list[dict[str, object]]]


@pytest.fixture
def logs(tmp_path: Path) -> tuple[Path, Path]:
    """A site's and a server's log after some rounds."""
    site, server = tmp_path / "site.jsonl", tmp_path / "server.jsonl"
    with AuditLog.open(site, SITE) as mine, AuditLog.open(server, SERVER) as theirs:
        for number in range(ROUNDS):
            about = {"kind": "train", "round": number}
            mine.witness(theirs.signed_head(), "server", **about)
            mine.append("released", **about)
            theirs.witness(mine.signed_head(), "munich", **about)
            theirs.append("round", round=number)
    return site, server


def anew(path: Path, key: object, change: Change) -> None:
    """Write the log again with `change` applied, chained and signed as if it had been so."""
    fields = [json.loads(line) for line in path.read_text().splitlines()]
    lines, head = [], BEGINNING
    for number, field in enumerate(change(fields)):
        facts = field["facts"]
        if field["event"] == "signature":
            facts = {"signature": sign(key, seal_message(head))}  # type: ignore[arg-type]
        line = make_line(number, str(field["time"]), str(field["event"]), facts, head)  # type: ignore[arg-type]
        head = json.loads(line)["hash"]
        lines.append(line + b"\n")
    path.write_bytes(b"".join(lines))


def row(path: Path, event: str, number: int) -> int:
    """The line, from 1, of the event of that round."""
    for line, text in enumerate(path.read_text().splitlines(), start=1):
        fields = json.loads(text)
        if fields["event"] == event and fields["facts"].get("round") == number:
            return line
    raise AssertionError(event)


def test_sound_logs_hold_each_other(logs: tuple[Path, Path]) -> None:
    site, server = logs
    assert len(witnessed(server, "munich")) == len(witnessed(site, "server")) == ROUNDS
    assert verify(site, SITE_PUBLIC, witnessed(server, "munich")) is None
    assert verify(server, SERVER_PUBLIC, witnessed(site, "server")) is None


@pytest.mark.parametrize("number", range(ROUNDS))
@pytest.mark.parametrize("how", ["altered", "removed"])
def test_a_site_that_rewrites_its_log_is_found_at_the_line(
    logs: tuple[Path, Path], number: int, how: str
) -> None:
    site, server = logs
    line = row(site, "released", number)

    def change(fields: list[dict[str, object]]) -> list[dict[str, object]]:
        if how == "altered":
            fields[line - 1]["event"] = "refused"
            return fields
        return fields[: line - 1] + fields[line:]

    anew(site, SITE, change)
    assert verify(site, SITE_PUBLIC) is None
    fault = verify(site, SITE_PUBLIC, witnessed(server, "munich"))
    # What the server saw last is the line of the round before.
    assert fault and fault.path == site
    assert fault.line == (row(site, "released", number - 1) + 1 if number else 1)
    assert f"round {number}" in fault.why


def test_a_server_that_rewrites_its_log_is_found_too(logs: tuple[Path, Path]) -> None:
    site, server = logs
    line = row(server, "round", 2)

    def change(fields: list[dict[str, object]]) -> list[dict[str, object]]:
        fields[line - 1]["facts"] = {"round": 2, "sites": 9}
        return fields

    anew(server, SERVER, change)
    assert verify(server, SERVER_PUBLIC) is None
    fault = verify(server, SERVER_PUBLIC, witnessed(site, "server"))
    # The site saw the line before the one before: the server had witnessed it since.
    assert fault and fault.path == server and fault.line == row(server, "witness", 2) == line - 1


def test_a_log_that_was_begun_anew_has_nothing_of_what_was_witnessed(
    logs: tuple[Path, Path],
) -> None:
    site, server = logs
    site.unlink()
    with AuditLog.open(site, SITE) as log:
        log.append("released", round=0)
    fault = verify(site, SITE_PUBLIC, witnessed(server, "munich"))
    assert fault and fault.line == 1


def test_a_server_cannot_make_up_a_sites_head(logs: tuple[Path, Path]) -> None:
    site, server = logs
    forged = SignedHead("a" * 64, sign(SERVER, seal_message("a" * 64)))
    with AuditLog.open(server, SERVER) as log:
        log.witness(forged, "munich", round=9)
    fault = verify(site, SITE_PUBLIC, witnessed(server, "munich"))
    assert fault and fault.path == server and "no key of that log signed" in fault.why


def test_an_old_head_shown_again_is_found(logs: tuple[Path, Path]) -> None:
    site, server = logs
    old = witnessed(server, "munich")[2]
    with AuditLog.open(server, SERVER) as log:
        log.witness(SignedHead(old.hash, str(old.signature)), "munich", kind="train", round=9)
    fault = verify(site, SITE_PUBLIC, witnessed(server, "munich"))
    assert fault and fault.line == row(site, "released", 2) and "round 9" in fault.why


def test_a_message_answered_once_more_after_a_crash_is_no_fault(logs: tuple[Path, Path]) -> None:
    site, server = logs
    last = witnessed(site, "server")[-1]
    with AuditLog.open(site, SITE) as log:
        head = SignedHead(last.hash, str(last.signature))
        log.witness(head, "server", kind="train", round=ROUNDS - 1)
    assert verify(server, SERVER_PUBLIC, witnessed(site, "server")) is None


def test_keys_that_changed_in_between_are_all_the_logs(logs: tuple[Path, Path]) -> None:
    site, server = logs
    with AuditLog.open(site, SITE) as mine, AuditLog.open(server, SERVER) as theirs:
        mine.change_key(make_signing_key())
        theirs.witness(mine.signed_head(), "munich", round=9)
    assert verify(site, SITE_PUBLIC, witnessed(server, "munich")) is None


@pytest.mark.parametrize(
    "head",
    [
        SignedHead("", ""),
        SignedHead("g" * 64, "0" * 128),
        SignedHead("A" * 64, "0" * 128),
        SignedHead("a" * 63, "0" * 128),
        SignedHead("a" * 64 + "\n", "0" * 128),
        SignedHead("a" * 64, "0" * 128),
        SignedHead("a" * 64, "x" * 10**6),
    ],
)
def test_what_is_no_signed_head_is_refused(head: SignedHead) -> None:
    with pytest.raises(FederationError, match="site munich"):
        head.check(SITE_PUBLIC, "site munich")


@pytest.mark.parametrize(
    "head", [SignedHead("", "0" * 128), SignedHead("a" * 64, ""), SignedHead("a" * 64, "0" * 127)]
)
def test_half_a_signed_head_is_none(head: SignedHead) -> None:
    with pytest.raises(FederationError, match="site munich: no head of an audit log came"):
        head.check(SITE_PUBLIC, "site munich")
    assert not head.signed_by([SITE_PUBLIC])


def test_the_same_head_for_another_round_is_found(logs: tuple[Path, Path]) -> None:
    """At the end of the log, where nothing was written since."""
    site, server = logs
    last = witnessed(server, "munich")[-1]
    with AuditLog.open(server, SERVER) as log:
        head = SignedHead(last.hash, str(last.signature))
        log.witness(head, "munich", kind="train", round=ROUNDS)
    fault = verify(site, SITE_PUBLIC, witnessed(server, "munich"))
    assert fault and fault.path == site and f"round {ROUNDS}" in fault.why


def test_a_head_says_where_it_was_recorded() -> None:
    head = Witnessed("ab" * 32)
    assert str(head) == f"{'ab' * 8}… (--head)"
    recorded = Witnessed("ab" * 32, "", {"round": 3}, Path("log"), 7)
    assert str(recorded) == f"{'ab' * 8}… (log: line 7, round 3)"


def test_the_last_head_of_each_is_found_in_every_part_of_the_log(tmp_path: Path) -> None:
    path, heads = tmp_path / "audit.jsonl", {}
    assert last_heads(path) == {}
    with AuditLog.open(path, SERVER) as log:
        for number, peer in enumerate(("munich", "paris", "munich", "rome")):
            heads[peer] = SignedHead(f"{number:064x}", f"{number:0128x}")
            log.append("round", round=number)
            log.witness(heads[peer], peer, round=number)
            if number == 2:
                log.rotate()
    assert last_heads(path) == heads
    path.write_bytes(path.read_bytes().replace(b'"peer":"rome"', b'"peer":"rame"'))
    with pytest.raises(FederationError, match=r"audit.jsonl: line 3 does not fit its own hash"):
        last_heads(path)


def test_the_command_holds_one_log_against_the_other(
    logs: tuple[Path, Path], tmp_path: Path
) -> None:
    site, server = logs
    (tmp_path / "site.pub").write_text(SITE_PUBLIC)
    options = ["audit", "verify", str(site), "--key", str(tmp_path / "site.pub")]
    against = [*options, "--witness", str(server), "--peer", "munich"]
    said = CliRunner().invoke(hemofed.app, against)
    assert said.exit_code == 0 and f"recorded {ROUNDS} heads" in said.output, said
    site.write_bytes(b"".join(site.read_bytes().splitlines(keepends=True)[:6]))
    assert CliRunner().invoke(hemofed.app, options).exit_code == 0
    found = CliRunner().invoke(hemofed.app, against).exception
    assert isinstance(found, FederationError) and "site.jsonl: line" in str(found)
    typo = CliRunner().invoke(hemofed.app, [*options, "--witness", str(server), "--peer", "x"])
    assert "it has heads of: munich" in str(typo.exception)
    alone = CliRunner().invoke(hemofed.app, [*options, "--witness", str(server)])
    assert isinstance(alone.exception, ConfigError)
    server.write_bytes(server.read_bytes()[:-5])
    with pytest.raises(FederationError, match="server.jsonl: line"):
        witnessed(server, "munich")
