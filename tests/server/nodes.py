"""Three connected nodes on a SuperLink's state, without a network."""

import json
import sqlite3
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from threading import Event

import numpy as np
from flwr.app import ArrayRecord, Message, RecordDict
from flwr.common.constant import NOOP_ACCOUNT_NAME, NOOP_FLWR_AID
from flwr.server.superlink.linkstate import LinkState

from client.membership.enrolment import make_site
from common.audit.log import AuditLog, SignedHead
from common.files import make_folder
from common.identity import load_signing_key, node_public_pem
from common.identity.keys import make_node_key
from common.wire.envelope import Envelope
from common.wire.flower_objects import SMALL_BYTES, put_together, take_apart
from common.wire.messages import Task
from common.wire.vector_codec import Vector, encode
from server.flower.grid import StateGrid
from server.flower.link_state import database, open_state
from server.flower.message_audit import Envelopes
from server.flower.run import FlowerRun
from server.membership.provisioning import admit, make_server
from tests.client.lab import study

SITES = ("paris", "rome", "turin")


class Setting:
    """Three connected nodes, and a run whose Grid the tests use."""

    def __init__(
        self,
        state: LinkState,
        grid: StateGrid,
        halt: Event,
        nodes: dict[str, int],
        keys: dict[str, bytes],
        home: Path,
        log: AuditLog,
    ) -> None:
        self.state, self.grid, self.halt, self.nodes, self.keys = state, grid, halt, nodes, keys
        self.home, self.log = home, log

    def message(self, site: str, model: Vector | None = None) -> Message:
        content = Task(study(), 1, head=site).content(None if model is None else encode(model))
        return Message(content, self.nodes[site], "train", group_id="1", ttl=60)

    def lines(self, event: str) -> list[dict[str, object]]:
        """The facts of the server's audit lines of that event."""
        rows = map(json.loads, (self.home / "audit.jsonl").read_text().splitlines())
        return [row["facts"] for row in rows if row["event"] == event]

    def taken(self, site: str) -> Message:
        """The message as the site's node takes it."""
        (message,) = self.state.get_message_ins(self.nodes[site], limit=1)
        return message

    def kept(self, identifier: str) -> Message:
        """What the SuperLink keeps for the site."""
        contents = self.grid._contents(identifier)
        return put_together(identifier, contents or {})

    def answer(
        self,
        site: str,
        to: Message,
        damage: str = "",
        head: SignedHead | None = None,
        size: int = 5,
    ) -> None:
        """The site's reply, by the way of the fleet API's handlers."""
        # Of what is to break off there must be a second object.
        size = SMALL_BYTES if damage == "half" else size
        vector = encode(np.full(size, SITES.index(site), dtype=np.float32))
        content = RecordDict({"u": ArrayRecord({"values": vector})})
        reply = Message(Envelope(head).around(content) if head else content, reply_to=to)
        if damage == "another's name":
            reply.metadata.__dict__["_src_node_id"] = self.nodes[site]
        parts, run = take_apart(reply), self.grid.run.run_id
        session = self.state.start_session(run)
        _, missing = self.state.store_message_and_object_tree(parts.head, parts.tree, session)
        for number, identifier in enumerate(missing):
            if damage == "half" and number:
                return
            self.state.store_object(run, session, identifier, parts.content(identifier))


def state_of(home: Path) -> LinkState:
    """The SuperLink's state in the home."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # alembic, at Flower's settings
        return open_state(home)


@lru_cache
def empty_database() -> bytes:
    """A database with Flower's tables, which are made in many steps, and nothing in them."""
    with tempfile.TemporaryDirectory() as folder:
        state_of(Path(folder))
        whole = Path(folder) / "whole"
        with (
            closing(sqlite3.connect(database(Path(folder)))) as made,
            closing(sqlite3.connect(whole)) as copy,
        ):
            made.backup(copy)
        return whole.read_bytes()


@contextmanager
def connected(folder: Path) -> Iterator[Setting]:
    """The nodes of SITES, online, and a run."""
    make_folder(database(folder).parent)
    database(folder).write_bytes(empty_database())
    state = state_of(folder)
    nodes, keys, home, now = {}, {}, folder / "server", datetime.now(UTC)
    make_server(home, "127.0.0.1:9092", now)
    for site in SITES:
        admit(home, make_site(folder / site, site, now), now)
        keys[site] = node_public_pem(make_node_key())
        nodes[site] = state.create_node(NOOP_FLWR_AID, NOOP_ACCOUNT_NAME, keys[site], 0, name=site)
        assert state.activate_node(nodes[site], 30)
    halt = Event()
    key = load_signing_key(home / "signing.key")
    with FlowerRun(state) as flower, AuditLog.open(home / "audit.jsonl", key) as log:
        grid = StateGrid(state, flower.run, halt, Envelopes(home, log))
        yield Setting(state, grid, halt, nodes, keys, home, log)
