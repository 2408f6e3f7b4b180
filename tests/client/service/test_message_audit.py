"""What a site's audit log says of the messages, and the heads that go to and fro."""

import json
import resource
import signal
from datetime import UTC, datetime
from pathlib import Path
from threading import Event as Halt

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import Error, Message, RecordDict

from client.app import client_app
from client.consent.proposals import MOST, Proposals
from client.home import SiteHome
from client.ledger.rollback import adopt, check_own_ledger
from client.membership.enrolment import join, make_site
from client.membership.membership import Membership
from client.service.message_audit import MessageAudit
from client.service.service import serve
from client.site import open_site
from common.audit.log import AuditLog, SignedHead, verify, witnessed
from common.audit.witness import NO_HEAD
from common.errors import FederationError, PrivacyError
from common.files import file_digest
from common.identity import Registry, load_signing_key
from common.identity.admission_request import AdmissionRequest
from common.identity.keys import make_node_key, make_signing_key
from common.wire.envelope import Envelope, take_off
from common.wire.messages import Update, absence_content, proposal_content, refusal_content
from common.wire.order import CLOCK_SECONDS, Order
from common.wire.proposal import Proposal
from common.wire.reasons import Reason
from common.wire.vector_codec import encode
from server.membership.provisioning import admit, make_kit, make_server, revoke
from tests.client.lab import context, first_model, message, study

NOW = datetime.now(UTC)


class Setting:
    """A joined lab, and its server's audit log."""

    def __init__(self, home: Path, server: Path) -> None:
        make_server(server, "127.0.0.1:9092", NOW)
        for site in ("lab", "other"):
            admit(server, make_site(home.with_name(site), site, NOW), NOW)
        kit = make_kit(server, "lab")
        join(home, kit, kit.fingerprint)
        self.home, self.server, self.operator = SiteHome(home), server / "audit.jsonl", server
        self.membership = Membership.load(home)
        self.log = self.membership.audit_log()
        self.server_log = AuditLog.open(self.server, load_signing_key(server / "signing.key"))
        self.record = MessageAudit(self.home, self.membership, self.log)

    def asked(
        self,
        kind: str = "train",
        head: SignedHead | None = None,
        number: int = 1,
        document: str = "",
    ) -> Message:
        """A message as it comes over the wire."""
        return self.ordered(message(study(), kind, number), head, document)

    def ordered(
        self,
        asked: Message,
        head: SignedHead | None = None,
        document: str = "",
        receiver: str = "lab",
        key: Ed25519PrivateKey | None = None,
        shown: SignedHead | None = None,
    ) -> Message:
        """The message in an envelope, signed by the server or by another key.

        shown: the head of the lab's log that the server says it was shown last.
        """
        signer = key or load_signing_key(self.operator / "signing.key")
        order = Order.of(asked, receiver).sign(signer)
        envelope = Envelope(
            head or self.server_log.signed_head(),
            document=document,
            order=order,
            witnessed=shown or NO_HEAD,
        )
        asked.content = envelope.around(asked.content)
        return asked

    def replied(self) -> int:
        """The registry's version that a reply names."""
        asked = self.asked()
        reply = Message(RecordDict(), reply_to=asked)
        self.record.leaves(asked, reply)
        return take_off(reply).registry

    def lines(self, event: str) -> list[dict[str, object]]:
        rows = map(json.loads, self.log.path.read_text().splitlines())
        return [row["facts"] for row in rows if row["event"] == event]


def test_heads_go_both_ways_and_each_log_holds_the_other(setting: Setting) -> None:
    app = client_app()
    for number in (1, 2, 3):
        asked = setting.asked(number=number)
        setting.record.came(asked)
        assert "envelope" not in asked.content
        reply = app(asked, context(setting.home.site_file))
        row = Update.read(reply, len(first_model(study()))).head
        setting.record.leaves(asked, reply)
        head = take_off(reply).head
        head.check(setting.membership.member.signing_public_key, "lab")
        assert setting.lines("released")[-1]["ledger"] == row != ""
        setting.server_log.witness(head, "lab", round=number)
    mine, theirs = setting.log.path, setting.server
    assert (
        verify(mine, setting.membership.member.signing_public_key, witnessed(theirs, "lab")) is None
    )
    assert verify(theirs, setting.membership.server_public_key, witnessed(mine, "server")) is None
    assert [line["round"] for line in setting.lines("witness")] == [1, 2, 3]


def test_an_older_ledger_is_found_by_the_sites_own_log_whatever_the_server_says(
    setting: Setting,
) -> None:
    site = open_site(setting.home.site_file)
    backup, app = site.ledger.read_bytes(), client_app()
    for number in (1, 2):
        asked = setting.asked(number=number)
        setting.record.leaves(asked, app(asked, context(setting.home.site_file)))
        check_own_ledger(site, setting.log.path)
    for file in setting.home.folder.glob("ledger.sqlite*"):
        file.unlink()
    with pytest.raises(PrivacyError, match="missing"):
        check_own_ledger(site, setting.log.path)
    site.ledger.write_bytes(backup)
    with pytest.raises(PrivacyError, match=r"older.*ledger adopt"):
        check_own_ledger(site, setting.log.path)
    with pytest.raises(PrivacyError, match="older"):
        serve(setting.home, Halt())
    head, lost = adopt(site, setting.membership)
    assert lost == 2 and setting.lines("ledger_adopted")[-1] == {"ledger": head, "lost": 2}
    check_own_ledger(site, setting.log.path)


@pytest.mark.parametrize("head", [SignedHead("", ""), SignedHead("smear.png", "x"), None])
def test_a_head_that_the_server_did_not_sign_is_left_out(
    setting: Setting, head: SignedHead | None
) -> None:
    setting.record.came(setting.asked(head=head or setting.log.signed_head()))
    assert setting.lines("witness") == []
    assert [line["peer"] for line in setting.lines("not_witnessed")] == ["server"]


def test_whatever_a_server_writes_into_a_task_the_log_takes_it(setting: Setting) -> None:
    asked = message(study())
    task = asked.content.config_records["task"]
    task["round"], task["attempt"], task["study"] = "smear.png", 2.5, "[" * 100_000
    setting.record.came(setting.ordered(asked))
    setting.record.leaves(asked, Message(refusal_content(Reason.BUDGET, "ab"), reply_to=asked))
    (line,) = setting.lines("refused")
    assert (line["round"], line["attempt"], line["study"]) == (-1, -1, "not a study")


def test_a_study_that_waits_for_sites_is_refused_in_one_line(setting: Setting) -> None:
    for kind in ("query.prepare", "query.prepare", "train", "train"):
        asked = setting.asked(kind)
        setting.record.came(asked)
        reply = Message(refusal_content(Reason.BUDGET, "ab"), reply_to=asked)
        setting.record.leaves(asked, reply)
    assert [line["kind"] for line in setting.lines("refused")] == [
        "query.prepare",
        "train",
        "train",
    ]
    assert len(setting.lines("witness")) == 2


def test_sitting_out_is_no_refusal(setting: Setting) -> None:
    asked = setting.asked()
    setting.record.came(asked)
    setting.record.leaves(asked, Message(absence_content(Reason.HOURS), reply_to=asked))
    assert setting.lines("refused") == setting.lines("released") == []
    assert [line["reason"] for line in setting.lines("sat_out")] == ["sits out: outside its hours"]


def test_a_changed_policy_is_a_line(setting: Setting) -> None:
    policy = setting.home.folder / "policy.yaml"
    digests = [file_digest(policy)]
    for _ in range(2):
        setting.record.came(setting.asked())
    policy.write_text(policy.read_text() + "# other\n")
    digests.append(file_digest(policy))
    setting.record.came(setting.asked())
    policy.unlink()
    setting.record.came(setting.asked())
    assert [line["digest"] for line in setting.lines("policy")] == [*digests, "none"]


def test_a_registry_that_came_is_what_the_site_goes_by(setting: Setting) -> None:
    before = setting.replied()
    revoke(setting.operator, "other", NOW)
    document = (setting.operator / "registry.json").read_text()
    setting.record.came(setting.asked("query.prepare", document=document))
    assert setting.replied() == before + 1
    assert set(Membership.load(setting.home.folder).registry.active()) == {"lab"}
    setting.record.came(setting.asked(document=document))
    assert len(setting.lines("registry_accepted")) == 1 and not setting.lines("registry_refused")


def swapped(setting: Setting) -> str:
    """A registry in which somebody else has the other lab's name, signed by the server."""
    registry = Registry.load(setting.operator)
    request = AdmissionRequest.make("other", make_node_key(), make_signing_key(), NOW)
    other = registry.sites["other"].model_copy(update={"requests": (request,)})
    changes = {"version": registry.version + 1, "sites": {**registry.sites, "other": other}}
    return changed(setting, changes)


def changed(setting: Setting, changes: dict[str, object]) -> str:
    """The registry with these changes, signed by the server."""
    registry = Registry.load(setting.operator).model_copy(update=changes)
    return json.dumps(registry.signed(load_signing_key(setting.operator / "signing.key")))


UNSOUND = [
    "swapped key",
    "altered",
    "no JSON",
    "deep",
    "a list",
    "long",
    "far future",
    "beyond any field",
]


@pytest.mark.parametrize("how", UNSOUND)
def test_a_registry_that_may_not_replace_the_present_one_is_one_line(
    setting: Setting, how: str
) -> None:
    before, kept = setting.replied(), (setting.home.folder / "kit" / "registry.json").read_text()
    document = {
        "swapped key": swapped(setting),
        "altered": kept.replace("active", "revoked", 1),
        "no JSON": kept[:-5],
        "deep": "[" * 100_000,
        "a list": "[1]",
        "long": " " * 10**8,
        "far future": changed(setting, {"version": 2**31}),
        "beyond any field": changed(setting, {"version": 2**63}),
    }[how]
    for _ in range(2):
        setting.record.came(setting.asked(document=document))
    assert len(setting.lines("registry_refused")) == 1 and len(setting.lines("witness")) == 2
    assert setting.replied() == before
    assert (setting.home.folder / "kit" / "registry.json").read_text() == kept


def prepare(setting: Setting, signature: str | None = None) -> Message:
    """What a server asks while the study waits for sites."""
    key = load_signing_key(setting.operator / "signing.key")
    proposal = Proposal.make(study(), key)
    if signature is not None:
        proposal = proposal.model_copy(update={"signature": signature})
    asked = message(study(), "query.prepare")
    asked.content = RecordDict({**asked.content, **proposal_content(proposal)})
    return setting.ordered(asked)


def forged(setting: Setting, how: str) -> Message:
    """What the server did not order, or not of this site, or not now."""
    asked = message(study(), number=2)
    if how == "a copy":
        setting.record.came(setting.ordered(asked))
        return setting.ordered(asked)  # the same bytes: Ed25519 draws nothing
    if how == "another site's":
        return setting.ordered(asked, receiver="other")
    if how == "by another key":
        return setting.ordered(asked, key=make_signing_key())
    if how == "an old one":
        asked.metadata.created_at -= asked.metadata.ttl + CLOCK_SECONDS + 1
        return setting.ordered(asked)
    setting.ordered(asked)
    if how == "unsigned":
        asked.content.config_records["envelope"]["order"] = ""
    elif how == "another round":
        asked.content.config_records["task"]["round"] = 1
    elif how == "another model":
        asked.content.array_records["model"]["values"] = encode(first_model(study()) + 1)
    else:
        assert how == "another run"
        vars(asked.metadata)["_run_id"] += 1
    return asked


FORGED = [
    "unsigned",
    "by another key",
    "another site's",
    "another round",
    "another model",
    "another run",
    "an old one",
    "a copy",
]


@pytest.mark.parametrize("how", FORGED)
def test_what_the_server_did_not_order_is_refused_with_a_line(setting: Setting, how: str) -> None:
    asked = forged(setting, how)
    with pytest.raises(PrivacyError, match="not ordered by this site's server"):
        setting.record.came(asked)
    (line,) = setting.lines("order_refused")
    assert (line["kind"], line["study"]) == ("train", study().digest)
    assert len(setting.lines("witness")) == (how == "a copy")
    assert setting.lines("not_witnessed") == []


def test_what_is_no_task_needs_an_order_too(setting: Setting) -> None:
    asked = Message(RecordDict(), 2, "query")
    with pytest.raises(PrivacyError, match="not ordered"):
        setting.record.came(asked)
    assert len(setting.lines("order_refused")) == 1
    setting.record.came(setting.ordered(Message(RecordDict(), 2, "query")))
    assert len(setting.lines("order_refused")) == 1


def test_a_proposed_study_is_kept_for_a_person_to_read(setting: Setting) -> None:
    for _ in range(2):
        setting.record.came(prepare(setting))
    (kept,) = Proposals(setting.home).all()
    assert kept.study == study() and Proposals(setting.home).find(study().digest[:8]) == kept
    assert setting.lines("proposal_refused") == []


@pytest.mark.parametrize("signature", ["", "0" * 128, "x" * 1000])
def test_a_study_that_the_server_did_not_sign_is_not_kept(setting: Setting, signature: str) -> None:
    asked = prepare(setting, signature)
    setting.record.came(asked)
    refusal = Message(refusal_content(Reason.NOT_APPROVED, "ab"), reply_to=asked)
    setting.record.leaves(asked, refusal)
    setting.record.came(prepare(setting, signature))
    assert Proposals(setting.home).all() == []
    assert len(setting.lines("proposal_refused")) == 1


def test_a_server_that_proposes_without_end_does_not_fill_the_disk(setting: Setting) -> None:
    folder = setting.home.proposals
    folder.mkdir()
    for number in range(MOST):
        (folder / f"{number}.json").touch()
    setting.record.came(prepare(setting))
    assert len(list(folder.iterdir())) == MOST


def test_a_reply_that_is_an_error_is_recorded_and_leaves_as_it_is(setting: Setting) -> None:
    asked = setting.asked()
    reply = Message(Error(3, "x"), reply_to=asked)
    setting.record.leaves(asked, reply)
    assert reply.has_error() and len(setting.lines("refused")) == 1


def test_nothing_leaves_when_the_log_cannot_be_written(setting: Setting) -> None:
    asked = setting.asked()
    setting.record.came(asked)
    reply = Message(RecordDict(), reply_to=asked)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        size = setting.log.path.stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, limits[1]))
        with pytest.raises(FederationError, match=r"audit.jsonl: the audit log cannot be written"):
            setting.record.leaves(asked, reply)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert setting.lines("released") == [] and not reply.content


def test_orders_are_forgotten_when_their_term_is_over(setting: Setting) -> None:
    past = message(study(), number=1)
    vars(past.metadata)["_ttl"] = 1.0
    past.metadata.created_at -= CLOCK_SECONDS - 1  # just within the clocks' difference
    setting.record.came(setting.ordered(past))
    assert len(setting.record._terms) == 1
    (signature,) = setting.record._terms
    setting.record._terms[signature] -= 10
    setting.record.came(setting.asked(number=2))
    assert len(setting.record._terms) == 1 and signature not in setting.record._terms


def answered(setting: Setting, number: int) -> SignedHead:
    """The head that leaves with the answer to a round."""
    asked = setting.asked(number=number)
    setting.record.came(asked)
    reply = client_app()(asked, context(setting.home.site_file))
    setting.record.leaves(asked, reply)
    return take_off(reply).head


def restarted(setting: Setting, log: bytes | None = None) -> MessageAudit:
    """The lab's record after a restart, with an older copy of the log if one is given."""
    setting.log.close()
    if log is not None:
        setting.home.audit.write_bytes(log)
    setting.log = setting.membership.audit_log()
    return MessageAudit(setting.home, setting.membership, setting.log)


def test_a_log_put_back_with_its_ledger_answers_no_more(setting: Setting) -> None:
    """The two fit each other; the server tells the lab what it was shown since."""
    ledger = open_site(setting.home.site_file).ledger
    older = answered(setting, 1)
    log, rows = setting.home.audit.read_bytes(), ledger.read_bytes()
    newest = answered(setting, 2)
    for head in (older, newest):
        restarted(setting).came(setting.ordered(message(study(), number=3), shown=head))
    ledger.write_bytes(rows)
    record = restarted(setting, log)
    record.came(setting.ordered(message(study(), number=3), shown=older))
    for number in (3, 3):
        with pytest.raises(PrivacyError, match=r"audit.jsonl: lacks the line .* an older copy"):
            record.came(
                setting.ordered(message(study(), number=number, attempt=number), shown=newest)
            )
    assert setting.lines("log_is_older") == [{"head": newest.hash}]

    adopt(open_site(setting.home.site_file), setting.membership)
    restarted(setting).came(setting.ordered(message(study(), number=3), shown=newest))


def test_a_line_copied_behind_an_older_log_does_not_make_it_whole(setting: Setting) -> None:
    answered(setting, 1)
    log = setting.home.audit.read_bytes()
    newest = answered(setting, 2)
    line = setting.home.audit.read_bytes().splitlines(keepends=True)[-1]
    with pytest.raises((PrivacyError, FederationError), match=r"older copy|audit.jsonl"):
        record = restarted(setting, log + line)
        record.came(setting.ordered(message(study(), number=3), shown=newest))


def test_a_head_that_this_lab_never_signed_stops_nothing(setting: Setting) -> None:
    stranger = setting.server_log.signed_head()
    for head in (stranger, SignedHead("0" * 64, "0" * 128), SignedHead("x", "")):
        setting.record.came(setting.ordered(message(study()), shown=head, receiver="lab"))
