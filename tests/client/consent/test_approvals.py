"""A site takes part in the study that a person there approved, and in no other."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from client.app import client_app
from client.consent.approvals import Consent, SignedApprovals
from client.consent.cohort import describe, pinned
from client.consent.decisions import DecisionFile, SignedDecision
from client.consent.explanation import explain
from client.home import SiteHome
from client.membership.enrolment import join, make_site, rotate_keys
from client.membership.membership import Membership
from client.site import open_site
from common.audit.log import verify
from common.config.loading import dump
from common.config.study import Participant, Site, Study
from common.errors import ConfigError, PrivacyError
from common.identity.documents import read_json
from common.wire.messages import read_refusal
from common.wire.reasons import Fault, Reason
from server.membership.provisioning import admit, make_kit, make_server, revoke
from tests.client.lab import (
    OPEN,
    Meanwhile,
    approve,
    check,
    context,
    make_lab,
    message,
    refused,
    study,
)

NOW = datetime.now(UTC)


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """The site.yaml of a lab that joined a server."""
    file = make_lab(tmp_path / "lab", cells=10)
    server = tmp_path / "server"
    make_server(server, "127.0.0.1:9092", NOW)
    admit(server, make_site(file.parent, "lab", NOW), NOW)
    kit = make_kit(server, "lab")
    join(file.parent, kit, kit.fingerprint)
    return file


def test_what_is_approved_passes_and_what_differs_in_one_number_does_not(site: Path) -> None:
    home, one = SiteHome(site.parent), study()
    approvals = SignedApprovals(home)
    app = client_app(approvals=approvals)
    assert refused(app(message(one), context(site))) is Reason.NOT_APPROVED
    approve(home, one)
    assert read_refusal(app(message(one), context(site))) is None
    changed = study(rounds=4)
    assert refused(app(message(changed), context(site))) is Reason.NOT_APPROVED
    approvals.withdraw(one.name, "Dr. Grün")
    assert refused(app(message(one, attempt=1), context(site))) is Reason.WITHDRAWN


def test_a_decision_that_nobody_at_the_site_signed_is_none(site: Path) -> None:
    home, one, other = SiteHome(site.parent), study(), study(rounds=2)
    lab, path = open_site(site), approve(home, one)
    sound = path.read_text()
    for altered, said in (
        (sound.replace(one.digest, other.digest), "the signature does not fit"),
        (sound.replace("leukaemia", "leukemias"), "the signature does not fit"),
        (sound.replace('"signature":"', '"signature":"00'), "the signature does not fit"),
        (sound + sound, "it does not follow the line before"),
        ("{}\n", "line 1 is not what this site decided"),
        (sound[:-40], "line 1 is not what this site decided"),
        ("[" * 100_000, "line 1 is not what this site decided"),
    ):
        path.write_text(altered)
        for asked in (one, other):
            with pytest.raises(PrivacyError, match=said):
                check(SignedApprovals(home), lab, asked)
    path.write_text(sound)
    check(SignedApprovals(home), lab, one)


def test_a_withdrawn_approval_cannot_be_put_back(site: Path) -> None:
    """By whoever writes the home, keeps what was there before, and has no signing key."""
    home, one, lab = SiteHome(site.parent), study(), open_site(site)
    approved = approve(home, one)
    before = {path.name: path.read_bytes() for path in home.approvals.iterdir()}
    running = SignedApprovals(home)
    check(running, lab, one)
    SignedApprovals(home).withdraw(one.name, "Dr. Grün")
    for one_of in (running, SignedApprovals(home)):
        with pytest.raises(PrivacyError, match=r"was withdrawn on 2\d+-\d+-\d+ by Dr. Grün"):
            check(one_of, lab, one)
    for name, content in before.items():
        (home.approvals / name).write_bytes(content)
    for one_of in (running, SignedApprovals(home)):
        with pytest.raises(PrivacyError, match="lacks decision 2, which this site's audit log nam"):
            check(one_of, lab, one)
    with pytest.raises(PrivacyError, match="lacks decision 2"):
        approve(home, study(rounds=2))
    approved.unlink()
    with pytest.raises(PrivacyError, match=r"is not approved .*decisions.jsonl is missing"):
        check(SignedApprovals(home), lab, one)


def test_lines_of_the_audit_log_copied_to_its_end_take_no_decision_back(site: Path) -> None:
    home, one, lab = SiteHome(site.parent), study(), open_site(site)
    path = approve(home, one)
    before = path.read_bytes()
    line = next(line for line in home.audit.read_bytes().splitlines(True) if b'"approved"' in line)
    SignedApprovals(home).withdraw(one.name, "Dr. Grün")
    path.write_bytes(before)
    with home.audit.open("ab") as log:
        log.write(line)
    with pytest.raises(PrivacyError, match="lacks decision 2"):
        check(SignedApprovals(home), lab, one)


def test_a_running_site_notices_that_log_and_decisions_were_rolled_back_together(
    site: Path,
) -> None:
    home, one, lab = SiteHome(site.parent), study(), open_site(site)
    path = approve(home, one)
    before = path.read_bytes(), home.audit.read_bytes()
    running = SignedApprovals(home)
    check(running, lab, one)
    running.withdraw(one.name, "Dr. Grün")
    with pytest.raises(PrivacyError, match="was withdrawn"):
        check(running, lab, one)
    path.write_bytes(before[0])
    home.audit.write_bytes(before[1])
    with pytest.raises(PrivacyError, match="is shorter than it was; an older copy"):
        check(running, lab, one)
    home.audit.unlink()
    home.audit.write_bytes(before[1] + b"\n" * 10_000)
    with pytest.raises(PrivacyError, match="lacks decision 2"):
        check(running, lab, one)


def test_a_lost_list_is_begun_anew_and_gives_back_nothing(site: Path) -> None:
    home, one, other, lab = SiteHome(site.parent), study(), study(rounds=2), open_site(site)
    path = approve(home, one)
    old = path.read_bytes()
    path.unlink()
    approve(home, other)
    check(SignedApprovals(home), lab, other)
    with pytest.raises(PrivacyError, match="is not approved"):
        check(SignedApprovals(home), lab, one)
    path.write_bytes(old)
    with pytest.raises(PrivacyError, match="lacks decision 2"):
        check(SignedApprovals(home), lab, one)


def test_a_crash_between_list_and_log_leaves_a_decision_that_is_logged_later(site: Path) -> None:
    home, one, lab = SiteHome(site.parent), study(), open_site(site)
    before = home.audit.read_bytes()
    for begun_anew in (False, True):
        path = approve(home, one)
        home.audit.write_bytes(before)
        check(SignedApprovals(home), lab, one)
        SignedApprovals(home).catch_up()
        SignedApprovals(home).catch_up()
        assert home.audit.read_text().count('"event":"approved"') == 1 + begun_anew
        before = home.audit.read_bytes()
        path.unlink()


def test_the_log_is_read_across_its_rotation(site: Path) -> None:
    home, one, lab = SiteHome(site.parent), study(), open_site(site)
    approve(home, one)
    running = SignedApprovals(home)
    check(running, lab, one)
    with Membership.load(home.folder).audit_log() as log:
        log.rotate()
    for one_of in (running, SignedApprovals(home)):
        check(one_of, lab, one)
    approve(home, study(rounds=2)).unlink()
    for one_of in (running, SignedApprovals(home)):
        with pytest.raises(PrivacyError, match="decisions.jsonl is missing"):
            check(one_of, lab, one)


def test_an_approval_ends_at_its_date_and_says_who_and_what_for(site: Path) -> None:
    home, one, lab = SiteHome(site.parent), study(), open_site(site)
    end = NOW + timedelta(days=1)
    approve(home, one, until=end)
    check(SignedApprovals(home, lambda: end - timedelta(seconds=1)), lab, one)
    later = SignedApprovals(home, lambda: end)
    with pytest.raises(PrivacyError, match=f"its approval ended at {end:%Y-%m-%d}"):
        check(later, lab, one)
    reply = client_app(approvals=later)(message(one), context(site))
    assert refused(reply) is Reason.EXPIRED
    with pytest.raises(ConfigError, match="is past; nothing is written"):
        approve(home, one, until=NOW - timedelta(days=1))
    lines = map(json.loads, home.audit.read_text().splitlines())
    (said,) = [line["facts"] for line in lines if line["event"] == "approved"]
    assert (said["by"], said["purpose"]) == ("Dr. Grün", "leukaemia in children")
    assert said["until"] == end.isoformat(timespec="seconds") and said["members"] == 1
    key = Membership.load(home.folder).member.signing_public_key
    assert verify(home.audit, key) is None


@pytest.mark.parametrize(
    ("by", "purpose"),
    [("", "x"), ("x" * 201, "x"), ("x", "x" * 501), ("x\x1b[2J", "x"), ("x", "\u202ex")],
)
def test_what_is_no_name_and_no_purpose_is_not_written(site: Path, by: str, purpose: str) -> None:
    home, one = SiteHome(site.parent), study()
    shown = pinned(one, Membership.load(home.folder).registry)
    with pytest.raises(ConfigError, match="the decision: 1 wrong"):
        SignedApprovals(home).approve(one, Consent(by, purpose, shown))
    with pytest.raises(PrivacyError, match="looks like an image's file name"):
        SignedApprovals(home).approve(one, Consent("x", "p1.png", shown))
    assert not home.decisions.exists() and '"approved"' not in home.audit.read_text()


def test_what_was_approved_before_the_keys_changed_must_be_approved_again(site: Path) -> None:
    home, server, one = SiteHome(site.parent), site.parent.parent / "server", study()
    approvals, lab = SignedApprovals(home), open_site(site)
    approve(home, one)
    admit(server, rotate_keys(home.folder, NOW), NOW)
    rejoin(home, server)
    with pytest.raises(PrivacyError, match=r"keys that this site has changed since; approve it ag"):
        check(approvals, lab, one)
    approve(home, one)
    check(approvals, lab, one)
    approvals.withdraw(one.name, "Dr. Grün")
    with pytest.raises(PrivacyError, match="was withdrawn"):
        check(approvals, lab, one)


def rejoin(home: SiteHome, server: Path) -> None:
    """Take the registry as the server has it at this moment."""
    kit = make_kit(server, "lab")
    join(home.folder, kit, kit.fingerprint)


def described(home: SiteHome, one: Study, name: str) -> str:
    registry, seen = Membership.load(home.folder).registry, SignedApprovals(home).seen()
    topics = describe(one, "lab", registry, seen, datetime.now(UTC))
    return next(text for _, text in topics if text.startswith(f"{name}: "))


def test_a_member_whose_key_nobody_saw_needs_a_new_approval(site: Path) -> None:
    """The operator admits a lab of its own making, under a name that the cohort had all along."""
    home, server, lab = SiteHome(site.parent), site.parent.parent / "server", open_site(site)
    pair = study(cohort={"lab": Participant(units=20), "other": Participant(units=20)})
    approve(home, pair)
    check(SignedApprovals(home), lab, pair)
    assert "NO MEMBER: once it is one" in described(home, pair, "other")
    admit(server, make_site(server.parent / "other", "other", NOW), NOW)
    rejoin(home, server)
    with pytest.raises(PrivacyError, match="other: the key is none that was shown"):
        check(SignedApprovals(home), lab, pair)
    assert "NEW: no approval of this site has shown it" in described(home, pair, "other")
    approve(home, pair)
    check(SignedApprovals(home), lab, pair)
    assert described(home, pair, "other").endswith("shown before")
    assert described(home, pair, "lab").endswith("this site")


def test_a_member_that_is_in_no_cohort_concerns_no_approval(site: Path) -> None:
    home, server, one = SiteHome(site.parent), site.parent.parent / "server", study()
    approve(home, one)
    admit(server, make_site(server.parent / "other", "other", NOW), NOW)
    rejoin(home, server)
    check(SignedApprovals(home), open_site(site), one)


def test_a_member_that_changed_its_keys_by_its_own_consent_is_the_lab_that_was_shown(
    site: Path,
) -> None:
    home, server, lab = SiteHome(site.parent), site.parent.parent / "server", open_site(site)
    other = server.parent / "other"
    pair = study(cohort={"lab": Participant(units=20), "other": Participant(units=20)})
    admit(server, make_site(other, "other", NOW), NOW)
    rejoin(home, server)
    approve(home, pair)
    admit(server, rotate_keys(other, NOW), NOW)
    rejoin(home, server)
    check(SignedApprovals(home), lab, pair)
    assert "changed its keys since, by consent of the old" in described(home, pair, "other")
    with Membership.load(home.folder).audit_log() as log:
        revoke(server, "other", NOW)
        Membership.load(home.folder).accept(read_json(server / "registry.json"), log)
    check(SignedApprovals(home), lab, pair)
    assert described(home, pair, "other").endswith("REVOKED")


def test_members_that_were_revoked_or_never_were_do_not_make_a_cohort(site: Path) -> None:
    home, server = SiteHome(site.parent), site.parent.parent / "server"
    admit(server, make_site(server.parent / "other", "other", NOW), NOW)
    kit = make_kit(server, "lab")
    join(home.folder, kit, kit.fingerprint)
    (home.folder / "policy.yaml").write_text(dump(OPEN.model_copy(update={"min_cohort": 2})))
    approvals, lab = SignedApprovals(home), open_site(site)
    pair = study(cohort={"lab": Participant(units=20), "other": Participant(units=20)})
    phantom = study(cohort={"lab": Participant(units=20), "nobody": Participant(units=20)})
    for one in (pair, phantom):
        approve(home, one)
    check(approvals, lab, pair)
    with pytest.raises(PrivacyError, match=r"active members 1 sites train; .* min_cohort is 2"):
        check(approvals, lab, phantom)
    topics = dict(explain(lab, phantom, {"lab", "other"}).topics)
    assert "NOT active members, so they will not: nobody" in topics["together"]
    with Membership.load(home.folder).audit_log() as log:
        revoke(server, "other", NOW)
        Membership.load(home.folder).accept(read_json(server / "registry.json"), log)
    with pytest.raises(PrivacyError, match="min_cohort is 2"):
        check(approvals, lab, pair)


def test_a_site_that_calls_itself_otherwise_is_not_the_one_that_approved(site: Path) -> None:
    home, one = SiteHome(site.parent), study()
    approvals = SignedApprovals(home)
    lab = open_site(site)
    approve(home, one)
    renamed = Site.model_validate(lab.model_dump() | {"name": "other"})
    site.write_text(dump(renamed))
    with pytest.raises(PrivacyError, match="site.yaml says other, the identity lab"):
        check(approvals, open_site(site), one)


def test_an_answer_does_not_leave_when_its_approval_is_withdrawn_meanwhile(site: Path) -> None:
    home, one = SiteHome(site.parent), study()
    approve(home, one)
    withdraws = Meanwhile(lambda: SignedApprovals(home).withdraw(one.name, "Dr. Grün"))
    app = client_app(withdraws, approvals=SignedApprovals(home))
    assert refused(app(message(one), context(site))) is Reason.WITHDRAWN
    assert "was withdrawn" in (site.parent / "site.log").read_text()


def test_a_decision_made_while_a_message_is_looked_at_is_no_fault(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, one, lab = SiteHome(site.parent), study(), open_site(site)
    approve(home, one)
    reads, others = DecisionFile.entries, [study(rounds=2)]

    def entries(file: DecisionFile, keys: Sequence[str]) -> tuple[SignedDecision, ...]:
        found = reads(file, keys)
        if others:
            approve(home, others.pop())
        return found

    monkeypatch.setattr(DecisionFile, "entries", entries)
    check(SignedApprovals(home), lab, one)
    assert len(SignedApprovals(home).approved()) == 2


def test_what_was_decided_last_is_known_of_each_study(site: Path) -> None:
    home, one, other = SiteHome(site.parent), study(), study(rounds=2)
    approvals = SignedApprovals(home)
    approvals.catch_up()
    assert approvals.last(one) is None and not approvals.lost() and approvals.approved() == []
    path = approve(home, one)
    assert (home.approvals / f"{one.digest}.yaml").read_text() == dump(one), "as it was read"
    approve(home, other)
    lines = [line for line in home.audit.read_text().splitlines() if '"event":"approved"' in line]
    assert len(lines) == 2 and not approvals.lost()
    decision = approvals.last(one)
    assert decision is not None and (decision.digest, decision.number) == (one.digest, 1)
    approvals.withdraw(one.digest, "Dr. Grün")
    decision = approvals.last(one)
    assert decision is not None and (decision.verdict, decision.number) == ("withdrawn", 3)
    assert [one.digest for one in approvals.approved()] == [other.digest]
    path.unlink()
    assert approvals.lost() and SignedApprovals(home).lost()


def test_what_the_log_was_not_told_of_is_told_whatever_else_it_was(site: Path) -> None:
    """Two decisions behind, in a list that was begun anew."""
    home, lab = SiteHome(site.parent), open_site(site)
    approve(home, study()).unlink()
    before = home.audit.read_bytes()
    one, other = study(rounds=2), study(rounds=4)
    approve(home, one)
    between = home.audit.read_bytes()
    approve(home, other)
    for log, told in ((between, 2), (before, 1)):
        home.audit.write_bytes(log)
        assert home.audit.read_text().count('"event":"approved"') == told
        check(SignedApprovals(home), lab, one)
        SignedApprovals(home).catch_up()
        assert home.audit.read_text().count('"event":"approved"') == 3
        whole = home.audit.read_bytes()
        SignedApprovals(home).catch_up()
        assert home.audit.read_bytes() == whole


def test_one_approved_study_is_taken_back_by_its_name_or_the_beginning_of_its_digest(
    site: Path,
) -> None:
    home, one, other, third = SiteHome(site.parent), study(), study(rounds=2), study(name="third")
    approvals = SignedApprovals(home)
    with pytest.raises(ConfigError, match=r"'lab-test': 0 approved .* there are: none"):
        approvals.withdraw(one.name, "Dr. Grün")
    for each in (one, other, third):
        approve(home, each)
    known = rf"lab-test \({one.digest[:12]}\), lab-test \({other.digest[:12]}\), third"
    for wanted, count in ((one.name, 2), ("hird", 0)):
        with pytest.raises(ConfigError, match=rf"{count} approved studies .* there are: {known}"):
            approvals.withdraw(wanted, "Dr. Grün")
    for wanted, taken in (("third", third), (one.digest[:12], one), (other.digest, other)):
        assert approvals.withdraw(wanted, "Dr. Grün", "no more").digest == taken.digest
    assert approvals.approved() == []


def test_an_end_that_is_this_moment_is_past(site: Path) -> None:
    home, one = SiteHome(site.parent), study()
    shown = pinned(one, Membership.load(home.folder).registry)
    approvals = SignedApprovals(home, lambda: NOW)
    with pytest.raises(ConfigError, match="is past; nothing is written"):
        approvals.approve(one, Consent("Dr. Grün", "x", shown, NOW))
    assert not home.decisions.exists()
    approvals.approve(one, Consent("Dr. Grün", "x", shown, NOW + timedelta(seconds=1)))


def test_a_no_stands_in_the_log_with_its_reason_cut_short(site: Path) -> None:
    home, one = SiteHome(site.parent), study()
    SignedApprovals(home).decline(one, Fault(Reason.DECLINED, "y" * 600))
    lines = map(json.loads, home.audit.read_text().splitlines())
    (said,) = [line["facts"] for line in lines if line["event"] == "not_approved"]
    assert said == {"study": one.name, "digest": one.digest, "reason": "y" * 500}


def test_a_no_is_the_reason_until_a_yes_and_does_not_come_back_with_a_lost_list(site: Path) -> None:
    home, one, lab = SiteHome(site.parent), study(), open_site(site)

    def reason() -> Reason:
        with pytest.raises(PrivacyError, match="is not approved at this site") as refusal:
            check(SignedApprovals(home), lab, one)
        return refusal.value.reason

    assert reason() is Reason.NOT_APPROVED
    SignedApprovals(home).decline(one, Fault(Reason.DECLINED, "no time"))
    assert reason() is Reason.DECLINED
    path = approve(home, one)
    check(SignedApprovals(home), lab, one)
    path.unlink()
    assert reason() is Reason.NOT_APPROVED


def test_a_home_that_others_may_write_decides_and_allows_nothing(site: Path) -> None:
    home, one, lab = SiteHome(site.parent), study(), open_site(site)
    approve(home, one)
    before = home.decisions.read_bytes()
    (site.parent / "policy.yaml").chmod(0o666)
    with pytest.raises(ConfigError, match="lets other users write it"):
        check(SignedApprovals(home), lab, one)
    with pytest.raises(ConfigError, match="lets other users write it"):
        approve(home, study(rounds=2))
    assert home.decisions.read_bytes() == before
