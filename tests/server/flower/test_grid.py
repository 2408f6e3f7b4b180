"""The Grid on the SuperLink's state: what sites send arrives whole, or harms nobody."""

import json
import resource
import signal
import time
from datetime import UTC, datetime

import numpy as np
import pytest
from flwr.app import Message, RecordDict
from flwr.common.constant import NOOP_FLWR_AID
from flwr.supercore.object_store.sql_object_store import SqlObjectStore
from sqlalchemy.exc import OperationalError

from common.audit.entry import seal_message
from common.audit.log import AuditLog, SignedHead, verify
from common.audit.witness import NO_HEAD
from common.errors import FederationError
from common.identity import Registry, load_signing_key, sign
from common.wire.envelope import Envelope, take_off
from common.wire.flower_objects import PIECE_BYTES
from common.wire.messages import task_facts
from common.wire.order import Order
from common.wire.reply_status import UNREADABLE, ReplyStatus
from common.wire.vector_codec import decode
from server.flower import arrivals
from server.flower.grid import StateGrid, StoppedError
from server.flower.message_audit import Envelopes
from server.flower.run import FlowerRun
from server.membership.provisioning import revoke
from server.rounds.messaging import Roster, exchange, unusable
from tests.client.lab import study
from tests.server.nodes import SITES, Setting


def stored(setting: Setting) -> list[str]:
    """The ids of all objects in the SuperLink's store."""
    store = setting.state.object_store
    assert isinstance(store, SqlObjectStore)
    return [row["object_id"] for row in store.query("SELECT object_id FROM objects")]


def collect(setting: Setting, sent: dict[str, Message]) -> dict[str, str]:
    """Site -> "sound" or the reason, of what came within a second."""
    replies = exchange(setting.grid, sent, 1.0)
    return {
        site: str(reply) if isinstance(reply, ReplyStatus) else "sound" for site, reply in replies
    }


def test_names_are_the_registrys(setting: Setting) -> None:
    assert Roster(setting.grid, {"paris", "rome"}).present(1.0) == {
        site: setting.nodes[site] for site in ("paris", "rome")
    }
    setting.state.deactivate_node(setting.nodes["rome"])
    assert list(Roster(setting.grid, set(SITES)).present(1.0)) == ["paris", "turin"]


def test_one_whole_one_half_and_one_silent_reply(setting: Setting) -> None:
    grid = setting.grid
    messages = {site: setting.message(site) for site in SITES}
    found = exchange(grid, messages, 1.0)
    replies = {}

    original = grid.pull_messages
    answered: list[str] = []

    def pull(ids: list[str]) -> list[Message]:
        if not answered:
            answered.append("yes")
            setting.answer("paris", setting.taken("paris"))
            setting.answer("rome", setting.taken("rome"), damage="half")
        return list(original(ids))

    grid.pull_messages = pull  # type: ignore[method-assign, assignment]
    for site, reply in found:
        replies[site] = reply
    assert isinstance(replies["paris"], Message)
    values = decode(replies["paris"].content.array_records["u"]["values"], 5)
    assert np.array_equal(values, np.zeros(5, dtype=np.float32))
    assert "no reply within" in str(replies["rome"])
    assert "no reply within" in str(replies["turin"])


def test_the_model_is_stored_once_for_all_sites(setting: Setting) -> None:
    model = np.arange(PIECE_BYTES // 4 + 1, dtype=np.float32)
    for site in SITES:
        assert list(setting.grid.push_messages([setting.message(site, model)]))
    contents = [setting.state.object_store.get(name) or b"" for name in stored(setting)]
    assert sum(map(len, contents)) < 1.1 * model.nbytes


def test_a_reply_under_way_is_not_read_again_and_again(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    identifiers = list(setting.grid.push_messages([setting.message("rome")]))
    setting.answer("rome", setting.taken("rome"), damage="half")
    read: list[bytes | None] = []
    original = setting.state.get_object

    def get(run: int, identifier: str) -> bytes | None:
        read.append(original(run, identifier))
        return read[-1]

    monkeypatch.setattr(setting.state, "get_object", get)
    assert list(setting.grid.pull_messages(identifiers)) == []
    assert read == [b""]


def test_between_thorough_looks_only_what_is_whole_is_read(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = setting.grid
    monkeypatch.setattr(grid._arrivals, "is_time", lambda: False)
    sent = list(grid.push_messages([setting.message(site) for site in SITES]))
    looked: list[str] = []
    original = setting.state.get_object

    def get(run: int, identifier: str) -> bytes | None:
        looked.append(identifier)
        return original(run, identifier)

    monkeypatch.setattr(setting.state, "get_object", get)
    assert list(grid.pull_messages(sent)) == []
    setting.answer("rome", setting.taken("rome"), damage="half")
    assert list(grid.pull_messages(sent)) == [] and looked == []
    setting.answer("paris", setting.taken("paris"))
    (reply,) = grid.pull_messages(sent)
    assert reply.metadata.src_node_id == setting.nodes["paris"] and looked


def test_what_leaves_no_trace_in_the_database_is_found_by_a_thorough_look(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid, clock = setting.grid, [0.0]
    monkeypatch.setattr(arrivals.time, "monotonic", lambda: clock[0])
    (identifier,) = grid.push_messages([setting.message("turin")])
    clock[0] = 100.0
    assert list(grid.pull_messages([identifier])) == []
    setting.state.delete_node(NOOP_FLWR_AID, setting.nodes["turin"])
    clock[0] += arrivals.THOROUGH_SECONDS / 2
    assert list(grid.pull_messages([identifier])) == []
    clock[0] += arrivals.THOROUGH_SECONDS / 2
    (reply,) = grid.pull_messages([identifier])
    assert reply.has_error()


def test_a_site_cannot_answer_for_another(setting: Setting) -> None:
    grid = setting.grid
    identifiers = list(grid.push_messages([setting.message("paris")]))
    taken = setting.taken("paris")
    setting.answer("rome", taken, damage="another's name")
    assert list(grid.pull_messages(identifiers)) == []
    setting.answer("paris", taken)
    (reply,) = grid.pull_messages(identifiers)
    assert reply.metadata.src_node_id == setting.nodes["paris"]
    assert reply.has_content()


def test_what_cannot_be_read_is_an_error_of_that_site_alone(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = setting.grid
    (identifier,) = grid.push_messages([setting.message("paris")])
    setting.answer("paris", setting.taken("paris"))
    monkeypatch.setattr(grid, "_contents", lambda _: {"x": b"no object at all"})
    (reply,) = grid.pull_messages([identifier])
    assert reply.error.code == UNREADABLE
    assert reply.metadata.reply_to_message_id == identifier


def test_a_removed_site_is_an_error_at_once_and_gets_no_more_messages(setting: Setting) -> None:
    grid = setting.grid
    (identifier,) = grid.push_messages([setting.message("turin")])
    setting.state.delete_node(NOOP_FLWR_AID, setting.nodes["turin"])
    (reply,) = grid.pull_messages([identifier])
    assert reply.has_error()
    assert list(grid.push_messages([setting.message("turin")])) == []


def head_of(setting: Setting, site: str, signer: str) -> SignedHead:
    """A head of the site's log, signed by the key of `signer`."""
    key = load_signing_key(setting.home.parent / signer / "identity" / "signing.key")
    rows = (setting.home.parent / site / "audit.jsonl").read_text().splitlines()
    head = json.loads(rows[-1])["hash"]
    return SignedHead(head, sign(key, seal_message(head)))


def test_a_message_bears_the_servers_head_and_the_sites_is_witnessed(setting: Setting) -> None:
    (identifier,) = setting.grid.push_messages([setting.message("paris")])
    taken, public = setting.taken("paris"), (setting.home / "signing.pub").read_text()
    sent = setting.kept(identifier)
    envelope = take_off(sent)
    envelope.head.check(public, "the server")
    Order.of(sent, "paris").check(public, envelope.order, time.time())
    with pytest.raises(FederationError, match="does not fit"):
        Order.of(sent, "rome").check(public, envelope.order, time.time())
    assert set(sent.content) == {"task"}
    head = head_of(setting, "paris", "paris")
    setting.answer("paris", taken, head=head)
    (reply,) = setting.grid.pull_messages([identifier])
    assert set(reply.content) == {"u"}
    (line,) = setting.lines("witness")
    assert (line["peer"], line["head"]) == ("paris", head.hash)
    assert (line["kind"], line["round"], line["study"]) == ("train", 1, study().digest)
    assert verify(setting.home / "audit.jsonl", public) is None


def test_a_site_is_shown_the_head_that_it_showed_last_by_later_runs_too(setting: Setting) -> None:
    def shown(grid: StateGrid, site: str) -> SignedHead:
        (identifier,) = grid.push_messages([setting.message(site)])
        return take_off(setting.kept(identifier)).witnessed

    assert shown(setting.grid, "rome") == NO_HEAD
    (identifier,) = setting.grid.push_messages([setting.message("paris")])
    head = head_of(setting, "paris", "paris")
    setting.answer("paris", setting.taken("paris"), head=head)
    list(setting.grid.pull_messages([identifier]))
    assert shown(setting.grid, "paris") == head
    with AuditLog.open(
        setting.home / "audit.jsonl", load_signing_key(setting.home / "signing.key")
    ) as log:
        setting.grid._envelopes = Envelopes(setting.home, log)
        assert shown(setting.grid, "paris") == head
        assert shown(setting.grid, "rome") == NO_HEAD


def test_a_registry_goes_out_until_the_site_has_it(setting: Setting) -> None:
    def sent(has: int) -> str:
        """What comes with a message; the site answers that it goes by version `has`."""
        (identifier,) = setting.grid.push_messages([setting.message("paris")])
        message = setting.kept(identifier)
        reply = Message(Envelope(SignedHead("", ""), has).around(RecordDict()), reply_to=message)
        setting.grid._envelopes.open(reply, "paris", None)
        return take_off(message).document

    version = Registry.load(setting.home).version
    for claim in (version - 1, 0, -1, 2**63 - 1):
        assert json.loads(sent(claim))["registry"]["version"] == version
    assert sent(version) != "" and sent(version) == ""
    revoke(setting.home, "rome", datetime.now(UTC))
    assert json.loads(sent(version + 1))["registry"]["version"] == version + 1
    assert sent(version + 1) == ""


HOSTILE = {
    "none": None,
    "another's": "rome",
    "too short": SignedHead("a" * 10, "b" * 128),
    "an image": SignedHead("smear.png", "scan.tiff"),
    "a book": SignedHead("a" * 100_000, "b" * 100_000),
}


@pytest.mark.parametrize("how", HOSTILE)
def test_a_head_that_the_site_did_not_sign_is_left_out_and_its_reply_counts(
    setting: Setting, how: str
) -> None:
    (identifier,) = setting.grid.push_messages([setting.message("paris")])
    head = HOSTILE[how]
    if isinstance(head, str):
        head = head_of(setting, "paris", head)
    setting.answer("paris", setting.taken("paris"), head=head)
    (reply,) = setting.grid.pull_messages([identifier])
    assert set(reply.content) == {"u"}
    assert setting.lines("witness") == []
    assert [line["peer"] for line in setting.lines("not_witnessed")] == ["paris"]


def test_a_full_disk_under_the_audit_log_is_said_so(setting: Setting) -> None:
    message = setting.message("paris")
    content = Envelope(head_of(setting, "paris", "paris")).around(RecordDict())
    reply, about = Message(content, reply_to=message), task_facts(message)
    path = setting.home / "audit.jsonl"
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 10, limits[1]))
        with pytest.raises(FederationError, match=r"audit.jsonl: the audit log cannot be written"):
            setting.grid._envelopes.open(reply, "paris", about)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == before


def test_a_halt_breaks_off_whatever_waits(setting: Setting) -> None:
    (identifier,) = setting.grid.push_messages([setting.message("paris")])
    setting.halt.set()
    with pytest.raises(StoppedError):
        setting.grid.pull_messages([identifier])


def test_a_run_that_was_left_behind_is_ended_by_the_next(setting: Setting) -> None:
    run = setting.grid.run.run_id
    with FlowerRun(setting.state) as flower:
        assert flower.run.run_id != run
        status = setting.state.get_run_status({run})[run]
        assert (status.status, status.sub_status) == ("finished", "stopped")


def test_what_lies_in_the_database_and_cannot_be_read_is_an_error_of_that_site_alone(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = {site: setting.message(site) for site in SITES}
    identifiers = {site: next(iter(setting.grid.push_messages([m]))) for site, m in sent.items()}
    for site in SITES:
        setting.answer(site, setting.taken(site))
    read = setting.state.get_message_res

    def get(asked: set[str], run: int) -> list[Message]:
        if identifiers["rome"] in asked:
            raise TypeError("said by Flower of what rome sent")
        return read(asked, run)

    monkeypatch.setattr(setting.state, "get_message_res", get)
    replies = {
        reply.metadata.reply_to_message_id: reply
        for reply in setting.grid.pull_messages(identifiers.values())
    }
    assert replies[identifiers["rome"]].error.code == UNREADABLE
    assert all(replies[identifiers[site]].has_content() for site in ("paris", "turin"))
    assert setting.state.num_message_res() == 0, "it is not read again and again"


@pytest.mark.parametrize("where", ["get_message_res", "get_object"])
def test_a_fault_of_the_database_is_no_sites(
    setting: Setting, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    (identifier,) = setting.grid.push_messages([setting.message("paris")])
    setting.answer("paris", setting.taken("paris"))

    def locked(*_: object) -> None:
        raise OperationalError("SELECT", {}, Exception("database is locked"))

    with monkeypatch.context() as broken, pytest.raises(OperationalError, match="locked"):
        broken.setattr(setting.state, where, locked)
        setting.grid.pull_messages([identifier])
    (reply,) = setting.grid.pull_messages([identifier])
    assert reply.has_content()


def test_a_content_that_cannot_be_read_is_that_sites_reply_left_out(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    def raises(_: object) -> None:
        raise OverflowError("said by Flower")

    monkeypatch.setattr("server.rounds.messaging.read_absence", raises)
    sent = {"paris": setting.message("paris")}
    pull = setting.grid.pull_messages

    def pulled(identifiers: list[str]) -> list[Message]:
        if setting.state.num_message_res() == 0:
            setting.answer("paris", setting.taken("paris"))
        return list(pull(identifiers))

    monkeypatch.setattr(setting.grid, "pull_messages", pulled)
    assert collect(setting, sent) == {"paris": "left out: it cannot be read (OverflowError)"}


@pytest.mark.parametrize("error", [MemoryError(), OSError("disk")])
def test_a_lack_of_this_machine_is_no_sites_offence(error: Exception) -> None:
    with pytest.raises(type(error)):
        unusable(error)


def test_what_was_not_answered_in_time_is_taken_back(setting: Setting) -> None:
    assert "no reply within" in collect(setting, {"paris": setting.message("paris")})["paris"]
    assert setting.state.get_message_ins(setting.nodes["paris"], limit=1) == []
    assert stored(setting) == []
