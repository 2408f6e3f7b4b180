"""A refusal's reference is followed into the sites' logs."""

from pathlib import Path

import pytest

from common.config.loading import dump
from common.errors import FederationError
from common.wire.reasons import Reason
from common.wire.reply_status import AWAY, OK, Kind, ReplyStatus
from server.rounds.quorum import NoQuorumError
from server.rounds.record import RoundRecord, SiteRecord, append, cut, read
from simulations.cli import simulate
from simulations.report import page, run_folder, site_errors
from tests.simulations.report import report_run
from tests.simulations.small import simulation
from tests.simulations.test_bad_input import make_lab


def write_log(folder: Path, site: str, *entries: tuple[str, str]) -> None:
    log = folder / "sites" / site / "site.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("".join(f"2026-01-01T00:00:00+00:00 [{r}] {text}\n" for r, text in entries))


def refused(reference: str) -> ReplyStatus:
    return ReplyStatus(Kind.REFUSED, reason=Reason.INTERNAL, reference=reference)


def no_quorum(**statuses: ReplyStatus) -> NoQuorumError:
    return NoQuorumError("; ".join(f"{site}: {said}" for site, said in statuses.items()), statuses)


def test_an_error_is_followed_by_what_its_references_say_each_once(tmp_path: Path) -> None:
    write_log(tmp_path, "a", ("00000001", "no cell"), ("00000009", "of another day"))
    write_log(tmp_path / "baselines" / "local_only" / "b", "b", ("00000002", "no cell"))
    traceback = "Traceback (most recent call last):\n  File x\nValueError: odd"
    write_log(tmp_path, "c", ("00000003", traceback))
    error = no_quorum(a=refused("00000001"), b=refused("00000002"), c=refused("00000003"))
    said = site_errors.explained(error, tmp_path)
    assert said.startswith(f"{error}\nin the sites' logs:\n  a [00000001], b [00000002]: no cell")
    assert "c [00000003]: ValueError: odd (traceback in sites/c/site.log)" in said
    assert "another day" not in said


@pytest.mark.parametrize(
    "error",
    [
        FederationError("a site's words (see 11111111 in its log)"),
        no_quorum(a=AWAY, b=refused("00000007")),
        NoQuorumError("it says why", {"a": refused("11111111")}),
    ],
)
def test_an_error_without_more_to_say_stays_as_it_is(
    tmp_path: Path, error: FederationError
) -> None:
    write_log(tmp_path, "a", ("11111111", "why"))
    assert site_errors.explained(error, tmp_path) == str(error)


def test_a_site_that_no_round_used_is_named_with_its_reason(tmp_path: Path) -> None:
    write_log(tmp_path, "a", ("00000001", "no cell"), ("00000002", "no cell"))
    rounds = [
        RoundRecord(
            round=n,
            attempt=1,
            sites={"a": SiteRecord(status=refused(f"0000000{n}")), "b": SiteRecord(status=OK)},
        )
        for n in (1, 2)
    ]
    (line,) = site_errors.never_used(rounds, site_errors.read_logs(tmp_path))
    assert line == "a: left out of all 2 rounds it was asked in: refused: internal (no cell)"


def test_the_report_gives_the_reason_once_for_all_rounds(tmp_path: Path) -> None:
    folder = report_run.write(tmp_path, report_run.summary(rounds=2))
    rounds = read(folder)
    cut(folder, 0)
    for number, one in enumerate(rounds, start=1):
        one.sites["north"] = SiteRecord(status=refused(f"0000000{number}"))
        append(folder, one)
    write_log(folder, "north", ("00000001", "no cell"), ("00000002", "no cell"))
    left_out = page.left_out(run_folder.read(folder))
    assert left_out == [("north", "refused: internal (no cell)", [1, 2])]


def test_the_command_says_why_its_sites_refused(tmp_path: Path) -> None:
    for name, other in (("first", "lymphocyte"), ("second", "monocyte")):
        make_lab(tmp_path / "labs", name, [(other, "test")] * 12)
    config = simulation(
        data={"source": "images", "root": str(tmp_path / "labs")},
        study={"cell_types": ["lymphocyte", "monocyte"]},
    )
    path = tmp_path / "small.yaml"
    path.write_text(dump(config))
    with pytest.raises(FederationError) as caught:
        simulate(str(path), out=tmp_path / "run")
    assert str(caught.value).count("no training cell") == 1
    assert "first [" in str(caught.value) and "second [" in str(caught.value)
