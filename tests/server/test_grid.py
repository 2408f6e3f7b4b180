"""The Grid on the SuperLink's state: what sites send arrives whole, or harms nobody."""

import json
import resource
import signal
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from threading import Event

import numpy as np
import pytest
from flwr.app import ArrayRecord, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.constant import NOOP_ACCOUNT_NAME, NOOP_FLWR_AID
from flwr.server.superlink.linkstate import LinkState
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

from common.audit_line import seal_message
from common.audit_log import AuditLog, SignedHead, verify
from common.envelope import Envelope, take_off
from common.errors import FederationError
from common.identity import Registry, load_signing_key, node_public_pem, sign
from common.identity.keys import make_node_key
from common.identity.site_home import make_site
from common.payload import decode, encode
from common.protocol import Task, task_facts
from server.envelopes import Envelopes
from server.exchange import UNREADABLE, Roster, exchange
from server.flower_run import FlowerRun
from server.grid import StateGrid, StoppedError
from server.provisioning import admit, make_server, revoke
from server.state import open_state
from tests.client.lab import study

SITES = ("paris", "rome", "turin")


class Setting:
    """Three connected nodes, and a run whose Grid the tests use."""

    def __init__(
        self, state: LinkState, grid: StateGrid, halt: Event, nodes: dict[str, int], home: Path
    ):
        self.state, self.grid, self.halt, self.nodes = state, grid, halt, nodes
        self.home = home

    def message(self, site: str) -> Message:
        content = Task(study(), 1).content()
        return Message(content, self.nodes[site], "train", group_id="1", ttl=60)

    def lines(self, event: str) -> list[dict[str, object]]:
        """The facts of the server's audit lines of that event."""
        rows = map(json.loads, (self.home / "audit.jsonl").read_text().splitlines())
        return [row["facts"] for row in rows if row["event"] == event]

    def taken(self, site: str) -> Message:
        """The message as the site's node takes it."""
        (message,) = self.state.get_message_ins(self.nodes[site], limit=1)
        return message

    def content(self, identifier: str) -> RecordDict:
        """What the SuperLink keeps for the site."""
        contents = self.grid._contents(identifier)
        message = inflate_object_from_contents(identifier, contents or {})
        assert isinstance(message, Message)
        return message.content

    def answer(
        self, site: str, to: Message, damage: str = "", head: SignedHead | None = None
    ) -> None:
        """The site's reply, by the way of the fleet API's handlers."""
        # What two sites send alike is stored once, so each sends numbers of its own.
        vector = encode(np.full(5, SITES.index(site), dtype=np.float32))
        content = RecordDict({"u": ArrayRecord({"values": vector})})
        reply = Message(Envelope(head).around(content) if head else content, reply_to=to)
        if damage == "another's name":
            reply.metadata.__dict__["_src_node_id"] = self.nodes[site]
        reply.metadata.__dict__["_message_id"] = reply.object_id
        run = self.grid.run.run_id
        with no_object_id_recompute():
            session = self.state.start_session(run)
            _, missing = self.state.store_message_and_object_tree(
                remove_content_from_message(reply), get_object_tree(reply), session
            )
            objects = get_all_nested_objects(reply)
        for number, identifier in enumerate(missing):
            if damage == "half" and number:
                return
            content = objects[identifier].deflate()
            self.state.store_object(run, session, identifier, content)


@pytest.fixture
def setting(tmp_path: Path) -> Iterator[Setting]:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # alembic, at Flower's settings
        state = open_state(tmp_path)
    nodes, home, now = {}, tmp_path / "server", datetime.now(UTC)
    make_server(home, "127.0.0.1:9092", now)
    for site in SITES:
        admit(home, make_site(tmp_path / site, site, now), now)
        key = node_public_pem(make_node_key())
        nodes[site] = state.create_node(NOOP_FLWR_AID, NOOP_ACCOUNT_NAME, key, 0, name=site)
        assert state.activate_node(nodes[site], 30)
    halt = Event()
    key = load_signing_key(home / "signing.key")
    with FlowerRun(state) as flower, AuditLog.open(home / "audit.jsonl", key) as log:
        grid = StateGrid(state, flower.run, halt, Envelopes(home, log))
        yield Setting(state, grid, halt, nodes, home)


def collect(setting: Setting, sent: dict[str, Message]) -> dict[str, str]:
    """Site -> "sound" or the reason, of what came within a second."""
    replies = exchange(setting.grid, sent, 1.0)
    return {site: reply if isinstance(reply, str) else "sound" for site, reply in replies}


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
    sent = Message(RecordDict(), setting.nodes["paris"], "train")
    sent.content = setting.content(identifier)
    take_off(sent).head.check(public, "the server")
    assert set(sent.content) == {"task"}
    head = head_of(setting, "paris", "paris")
    setting.answer("paris", taken, head=head)
    (reply,) = setting.grid.pull_messages([identifier])
    assert set(reply.content) == {"u"}
    (line,) = setting.lines("witness")
    assert (line["peer"], line["head"]) == ("paris", head.hash)
    assert (line["kind"], line["round"], line["study"]) == ("train", 1, study().digest)
    assert verify(setting.home / "audit.jsonl", public) is None


def test_a_registry_goes_out_until_the_site_has_it(setting: Setting) -> None:
    def sent(has: int) -> str:
        """What comes with a message; the site answers that it goes by version `has`."""
        (identifier,) = setting.grid.push_messages([setting.message("paris")])
        message = Message(RecordDict(), setting.nodes["paris"], "train")
        message.content = setting.content(identifier)
        reply = Message(Envelope(SignedHead("", ""), has).around(RecordDict()), reply_to=message)
        setting.grid._envelopes.open(reply, "paris", None)
        return take_off(message).document

    version = Registry.load(setting.home).version
    assert json.loads(sent(version - 1))["registry"]["version"] == version
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
