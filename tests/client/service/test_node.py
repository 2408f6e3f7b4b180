"""The site's node: what it answers while the site is paused, and what the runner is asked then."""

import logging
from collections.abc import Callable
from pathlib import Path
from threading import Event

import pytest
from flwr.app import Message
from flwr.proto.fleet_pb2 import PullMessagesResponse
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.message_pb2 import ObjectTree, PullObjectRequest, PullObjectResponse
from flwr.proto.node_pb2 import Node

from client.app import client_app
from client.consent.proposals import Proposals
from client.fleet_api.fleet_client import FleetLink, RunOverError
from client.service.journal import Journal, read_notes
from client.service.message_audit import MessageAudit
from client.service.node import SuperNode
from client.service.worker import Runner
from common.wire.bundle import BUNDLE_HASH
from common.wire.envelope import take_off
from common.wire.messages import (
    WITHDRAW,
    read_absence,
    read_name,
    read_refusal,
    refusal_content,
)
from common.wire.reasons import Reason
from common.wire.reply_status import Kind, ReplyStatus
from tests.client.lab import context, message, refused, study
from tests.client.service.test_message_audit import FORGED, Setting, forged, prepare

KINDS = ["query.prepare", "train", "evaluate"]
SENT = PullMessagesResponse(
    messages_list=[ProtoMessage()], message_object_trees=[ObjectTree(object_id="0" * 64)]
)


SENT_BARE = PullMessagesResponse(messages_list=[ProtoMessage()])


class Unfinished:
    """A server that knows an object's name and has not got it yet."""

    def pull_object(self, request: PullObjectRequest) -> tuple[PullObjectResponse, bytes]:
        return PullObjectResponse(object_found=True, object_available=False), b""


class Link(FleetLink):
    """A server that has one message, and takes its answer."""

    def __init__(self, asked: Message, halt: Event) -> None:
        self._asked, self._end, self._held, self._fetched = asked, halt, {}, {}
        self.answers: list[Message] = []

    def pull(self) -> PullMessagesResponse:
        return PullMessagesResponse()

    def fetch(self, pulled: PullMessagesResponse) -> Message:
        return self._asked

    def bundle_hash(self, run: int) -> str:
        return BUNDLE_HASH

    def push(self, reply: Message) -> None:
        take_off(reply)
        self.answers.append(reply)
        self._end.set()


class Asked(Runner):
    """The ClientApp in this process; `then` happens once it has computed."""

    def __init__(self, site: Path, then: Callable[[], object]) -> None:
        super().__init__(site, site.parent / "runner.log")
        self._site, self._then = site, then
        self.asked = 0

    def answer(self, message: Message, seconds: float, halt: Event) -> Message:
        self.asked += 1
        reply = client_app()(message, context(self._site))
        self._then()
        return reply


def answered(
    setting: Setting, kind: str, then: Callable[[], object] = lambda: None
) -> tuple[Message, Asked]:
    """What leaves of one message, and the runner, which calls `then` when it has computed."""
    return handled(
        setting, prepare(setting) if kind == "query.prepare" else setting.asked(kind), then
    )


def handled(
    setting: Setting, asked: Message, then: Callable[[], object] = lambda: None
) -> tuple[Message, Asked]:
    """The same of the message `asked`."""
    halt = Event()
    link, runner = Link(asked, halt), Asked(setting.home.site_file, then)
    SuperNode(setting.home, link, runner, setting.record, halt).serve()
    (reply,) = link.answers
    return reply, runner


@pytest.mark.parametrize("kind", KINDS)
def test_a_paused_site_says_at_once_that_it_sits_out_and_computes_nothing(
    setting: Setting, kind: str
) -> None:
    setting.home.paused.touch()
    reply, runner = answered(setting, kind)
    assert (
        read_absence(reply) == ReplyStatus(Kind.SITS_OUT, reason=Reason.PAUSED)
        and read_refusal(reply) is None
    )
    assert runner.asked == 0
    assert [line["reason"] for line in setting.lines("sat_out")] == ["sits out: paused"]


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_being_computed_when_the_pause_came_does_not_leave(
    setting: Setting, kind: str
) -> None:
    reply, runner = answered(setting, kind, setting.home.paused.touch)
    assert runner.asked == 1
    assert read_absence(reply) == ReplyStatus(Kind.SITS_OUT, reason=Reason.PAUSED) and list(
        reply.content
    ) == ["absence"]
    assert setting.lines("released") == []


def test_a_site_takes_part_again_after_a_pause(setting: Setting) -> None:
    setting.home.paused.touch()
    answered(setting, "query.prepare")
    setting.home.paused.unlink()
    reply, _ = answered(setting, "query.prepare")
    assert read_name(reply) == "lab"
    reply, _ = answered(setting, "train")
    assert read_absence(reply) is None and len(setting.lines("released")) == 1


@pytest.mark.parametrize("how", FORGED)
@pytest.mark.parametrize("paused", [False, True])
def test_what_the_server_did_not_order_never_reaches_the_runner(
    setting: Setting, how: str, paused: bool
) -> None:
    if paused:
        setting.home.paused.touch()
    reply, runner = handled(setting, forged(setting, how))
    assert refused(reply) is Reason.NOT_ORDERED and list(reply.content) == ["refusal"]
    assert runner.asked == 0
    assert len(setting.lines("order_refused")) == len(setting.lines("refused")) == 1
    assert setting.lines("released") == []


def test_what_is_no_message_costs_the_site_nothing_and_the_next_one_is_answered(
    setting: Setting, caplog: pytest.LogCaptureFixture
) -> None:
    """Who writes the server's database, and has not its key, can put anything in its place."""
    junk, halt = [b"Message  4\0junk", b"junk", b""], Event()

    class Damaged(Link):
        def fetch(self, pulled: PullMessagesResponse) -> Message:
            return FleetLink.fetch(self, SENT) if junk else super().fetch(pulled)

        def _object(self, run: int, identifier: str, end: float) -> bytes:
            return junk.pop()

    link, runner = Damaged(setting.asked(), halt), Asked(setting.home.site_file, lambda: None)
    SuperNode(setting.home, link, runner, setting.record, halt).serve()
    (reply,) = link.answers
    assert "update" in reply.content and runner.asked == 1
    assert [line["kind"] for line in setting.lines("order_refused")] == ["unknown"]
    assert not setting.home.inflight.exists()
    assert "which is no message; not answered" in caplog.text


@pytest.mark.parametrize("bad", [b"\xff", SENT_BARE.SerializeToString()])
def test_a_question_at_hand_without_its_parts_is_dropped_at_the_next_start(
    setting: Setting, bad: bytes
) -> None:
    """It would end every start otherwise."""
    halt = Event()

    class Whole(Link):
        def fetch(self, pulled: PullMessagesResponse) -> Message:
            return FleetLink.fetch(self, pulled) if pulled == SENT_BARE else self._asked

    setting.home.inflight.parent.mkdir(exist_ok=True)
    setting.home.inflight.write_bytes(bad)
    link, runner = Whole(setting.asked(), halt), Asked(setting.home.site_file, lambda: None)
    SuperNode(setting.home, link, runner, setting.record, halt).serve()
    assert len(link.answers) == 1 and not setting.home.inflight.exists()


def test_an_object_that_never_comes_is_not_waited_for_longer_than_the_answer(
    setting: Setting,
) -> None:
    """The rounds' process died between naming a question's objects and storing them."""
    asked = PullMessagesResponse.FromString(SENT.SerializeToString())
    asked.messages_list[0].metadata.ttl = -1.0
    link = Link(setting.asked(), Event())
    link._client = Unfinished()  # type: ignore[assignment]
    link._halt, link._node, link._hindrance = Event(), Node(node_id=1), ""
    with pytest.raises(RunOverError):
        FleetLink.fetch(link, asked)


@pytest.mark.parametrize("private", [True, False])
def test_an_ordered_round_that_is_sent_again_is_answered_once(
    setting: Setting, private: bool
) -> None:
    """The signature fits the copy as well; what stops it is the ledger, over restarts."""
    asked = study() if private else study(privacy={})

    def sent(number: int) -> Message:
        return setting.ordered(message(asked, "train", number))

    first, _ = handled(setting, sent(1))
    assert read_refusal(first) is None and "update" in first.content
    for number in (1, 1, 2, 1):
        setting.record = MessageAudit(setting.home, setting.membership, setting.log)
        reply, _ = handled(setting, sent(number))
        assert ("update" in reply.content) == (number == 2)
    assert setting.lines("order_refused") == []
    assert [line["round"] for line in setting.lines("released")] == [1, 2]


@pytest.mark.parametrize("paused", [False, True])
def test_a_proposal_that_its_operator_takes_back_leaves_the_list(
    setting: Setting, paused: bool
) -> None:
    """By the server's order alone, and without the runner."""
    setting.record.came(prepare(setting))
    assert len(Proposals(setting.home).all()) == 1
    if paused:
        setting.home.paused.touch()
    asked = setting.ordered(message(study(), WITHDRAW, 0))
    reply, runner = handled(setting, asked)
    assert read_name(reply) == "lab" and runner.asked == 0
    assert Proposals(setting.home).all() == []
    assert [line["study"] for line in setting.lines("proposal_withdrawn")] == [study().digest]
    (note,) = read_notes(setting.home.studies).values()
    assert note.state == "withdrawn"


def test_nobody_else_takes_a_proposal_back(setting: Setting) -> None:
    setting.record.came(prepare(setting))
    reply, _ = handled(setting, message(study(), WITHDRAW, 0))
    assert refused(reply) is Reason.NOT_ORDERED
    assert len(Proposals(setting.home).all()) == 1 and read_notes(setting.home.studies) == {}


def test_what_becomes_of_a_study_is_one_line_a_change(
    setting: Setting, caplog: pytest.LogCaptureFixture
) -> None:
    """A study that waits asks every few seconds; a person reads what is new."""
    caplog.set_level(logging.INFO, logger="hemofed.site")
    file = setting.home.folder / "policy.yaml"
    policy = file.read_text()
    file.write_text(policy.replace("max_rounds: 10000", "max_rounds: 2"))
    for _ in range(4):
        reply, _ = handled(setting, prepare(setting))
    assert refused(reply) is Reason.MAX_ROUNDS
    file.write_text(policy)
    for _ in range(3):
        handled(setting, prepare(setting))
    for number in (1, 2):
        handled(setting, setting.asked(number=number))
        handled(setting, setting.asked("evaluate", number=number))
    setting.home.paused.touch()
    handled(setting, setting.asked(number=3))
    setting.home.paused.unlink()
    handled(setting, setting.ordered(message(study(), "evaluate", 2, split="test")))
    said = [record.getMessage().split("): ", 1)[1] for record in caplog.records]
    assert [words.split(" [")[0] for words in said] == [
        "came from the server",
        "refused",
        "this site is ready, and waits for the others",
        "round 1 of 3 is answered",
        "round 2 of 3 is answered",
        "sits out: paused",
        "completed, and tested",
    ]
    assert "the policy's max_rounds is 2" in said[1]
    (note,) = read_notes(setting.home.studies).values()
    assert (note.study, note.state, note.round, note.rounds) == ("lab-test", "completed", 2, 3)


def test_a_study_that_waits_for_an_approval_says_what_to_type(
    setting: Setting, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="hemofed.site")
    journal = Journal(setting.home)
    asked = prepare(setting)
    for reason in (Reason.NOT_APPROVED, Reason.NOT_APPROVED, Reason.DECLINED):
        journal.note(asked, Message(refusal_content(reason, "ab12"), reply_to=asked))
    command = f"`hemofed site approve {setting.home.folder} lab-test`"
    assert caplog.text.count(f"read it and decide with {command}") == 1
    assert caplog.text.count(f"was declined here, and the server is told so; {command}") == 1
    assert read_notes(setting.home.studies)[study().digest].state == "refused: declined"


def test_a_journal_that_is_damaged_is_begun_anew(setting: Setting) -> None:
    for text in ("{", "[]", '{"a": {"x": 1}}'):
        setting.home.studies.write_text(text)
        assert read_notes(setting.home.studies) == {}
    handled(setting, prepare(setting))
    assert read_notes(setting.home.studies)[study().digest].state == "ready"
