"""The Grid on the SuperLink's state: what sites send arrives whole, or harms nobody."""

from collections.abc import Iterator
from pathlib import Path
from threading import Event

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.constant import NOOP_ACCOUNT_NAME, NOOP_FLWR_AID
from flwr.server.superlink.linkstate import LinkState
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    no_object_id_recompute,
)

from common.identity import node_public_pem
from common.identity.keys import make_node_key
from common.payload import decode, encode
from server.exchange import Roster, exchange
from server.flower_run import FlowerRun
from server.grid import StateGrid, StoppedError
from server.state import open_state

SITES = ("paris", "rome", "turin")


class Setting:
    """Three connected nodes, and a run whose Grid the tests use."""

    def __init__(self, state: LinkState, grid: StateGrid, halt: Event, nodes: dict[str, int]):
        self.state, self.grid, self.halt, self.nodes = state, grid, halt, nodes

    def message(self, site: str) -> Message:
        content = RecordDict({"task": ConfigRecord({"for": site})})
        return Message(content, self.nodes[site], "train", group_id="1", ttl=60)

    def taken(self, site: str) -> Message:
        """The message as the site's node takes it."""
        (message,) = self.state.get_message_ins(self.nodes[site], limit=1)
        return message

    def answer(self, site: str, to: Message, damage: str = "") -> None:
        """The site's reply, by the way of the fleet API's handlers."""
        # What two sites send alike is stored once, so each sends numbers of its own.
        vector = encode(np.full(5, SITES.index(site), dtype=np.float32))
        reply = Message(RecordDict({"u": ArrayRecord({"values": vector})}), reply_to=to)
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
    nodes = {}
    for site in SITES:
        key = node_public_pem(make_node_key())
        nodes[site] = state.create_node(NOOP_FLWR_AID, NOOP_ACCOUNT_NAME, key, 0, name=site)
        assert state.activate_node(nodes[site], 30)
    halt = Event()
    with FlowerRun(state) as flower:
        yield Setting(state, StateGrid(state, flower.run, halt), halt, nodes)


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
    assert reply.has_error()
    assert reply.metadata.reply_to_message_id == identifier


def test_a_removed_site_is_an_error_at_once_and_gets_no_more_messages(setting: Setting) -> None:
    grid = setting.grid
    (identifier,) = grid.push_messages([setting.message("turin")])
    setting.state.delete_node(NOOP_FLWR_AID, setting.nodes["turin"])
    (reply,) = grid.pull_messages([identifier])
    assert reply.has_error()
    assert list(grid.push_messages([setting.message("turin")])) == []


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
