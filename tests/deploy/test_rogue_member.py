"""What one member, by its own valid key, can do to a private study of others: be left out of it.

Two labs are real clients; the third is played here, by what it sends.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from threading import Event

import httpx
import pytest
from flwr.app import Message
from flwr.common.serde import message_to_proto
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.message_pb2 import ObjectTree
from flwr.proto.node_pb2 import Node

from client.fleet_api.fleet_client import FleetLink
from client.ledger.ledger import Ledger
from client.membership.membership import Membership
from client.site import open_site
from common.audit.log import AuditLog
from common.identity import load_signing_key
from common.identity.keys import make_signing_key
from common.models import build, federated
from common.models.parameter_vector import flatten
from common.wire.flower_objects import take_apart
from common.wire.messages import Task, absence_content, name_content
from common.wire.reasons import Reason
from common.wire.vector_codec import encode
from server.fleet_api.body_limits import MAX_REQUEST
from server.flower.grid import StateGrid
from server.flower.message_audit import Envelopes
from server.flower.run import FlowerRun
from server.rounds.messaging import exchange
from server.studies.store import Stored
from tests.deploy.federation import Federation, records, wait_until
from tests.server.nodes import state_of
from tests.simulations.small import PRIVATE, simulation

POLICY = {"min_sites": 2, "deadline_seconds": 60, "suspend_after": 10}


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    config = simulation(study={"privacy": PRIVATE, "round": POLICY})
    one = Federation(tmp_path_factory.mktemp("member"), config)
    try:
        one.start("server")
        wait_until(lambda: (one.server / "service.json").exists(), "the server runs")
        for name in honest(one):
            one.start(name)
        yield one
    finally:
        one.close()


def honest(federation: Federation) -> list[str]:
    return sorted(federation.sites)[:2]


def paid(federation: Federation, name: str) -> dict[tuple[str, int], int]:
    """How often the ledger has each round of each study."""
    with Ledger.read(open_site(federation.sites[name].site_file).ledger) as ledger:
        return Counter((row.study, row.round) for row in ledger.rows("debit"))


def refused(federation: Federation) -> set[tuple[str, str]]:
    """Whom the server turned away, and why."""
    facts = [line["facts"] for line in federation.audit("server", "request_refused")]
    return {(one["site"], one["reason"]) for one in facts}


class Rogue:
    """The third lab's node."""

    def __init__(self, federation: Federation, memory: Path) -> None:
        self.name = sorted(federation.sites)[2]
        key = Membership.load(federation.sites[self.name].folder).node_key()
        authority = federation.server / "ca.crt"
        self.link = FleetLink(federation.address, authority, key, Event())
        self.link.connect(memory)
        self.answers: list[int] = []

    def push(self, request: PushMessagesRequest) -> int:
        """The HTTP status of what the server says to it."""
        try:
            self.link._client.PushMessages(request)
        except httpx.HTTPStatusError as error:
            self.answers.append(error.response.status_code)
        else:
            self.answers.append(200)
        return self.answers[-1]

    def announced(self, reply: Message) -> PushMessagesRequest:
        parts = take_apart(reply)
        return PushMessagesRequest(
            node=self.link._node,
            messages_list=[message_to_proto(parts.head)],
            message_object_trees=[parts.tree],
        )

    def takes_part(self, stored: Stored, instead: Callable[[Message], None]) -> None:
        """Say that it is ready; whatever else it is asked, until the study ends, do `instead`."""
        while stored.said()["state"] not in ("completed", "failed"):
            pulled = self.link.pull()
            if pulled is None:
                continue
            asked = self.link.fetch(pulled)
            if asked.metadata.message_type == "query.prepare":
                self.link.push(Message(name_content(self.name), reply_to=asked))
            else:
                instead(asked)


@pytest.fixture(scope="module")
def rogue(federation: Federation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rogue]:
    one = Rogue(federation, tmp_path_factory.mktemp("rogue") / "node")
    with closing(one.link):
        yield one


def metadata(name: str, value: float | str) -> Callable[[PushMessagesRequest], None]:
    return lambda request: setattr(request.messages_list[0].metadata, name, value)


def deep(request: PushMessagesRequest) -> None:
    tree = request.message_object_trees[0].children.add(object_id="0" * 64)
    tree.children.add(object_id="1" * 64)


HARMS = [
    metadata("ttl", -1.0),
    metadata("ttl", 1e300),
    metadata("created_at", 1e300),
    metadata("message_type", "train me"),
    metadata("group_id", "7"),
    deep,
]


def test_what_is_out_of_bounds_costs_that_member_its_reply_and_nobody_a_round(
    federation: Federation, rogue: Rogue
) -> None:
    stored, harms = federation.another("bounds"), HARMS.copy()

    def harm(asked: Message) -> None:
        request = rogue.announced(Message(absence_content(Reason.PAUSED), reply_to=asked))
        harms[0](request)
        harms.append(harms.pop(0))
        assert rogue.push(request) == 400

    rogue.takes_part(stored, harm)
    assert stored.said()["state"] == "completed", stored.said()
    for record in records(stored):
        entry = record["sites"].pop(rogue.name)
        assert (entry["status"], entry["words"]) == ("left out", "the reply cannot be read")
        assert {one["status"] for one in record["sites"].values()} == {"ok"}
        assert record["attempt"] == 0
    digest, rounds = stored.study().digest, len(records(stored))
    for name in honest(federation):
        assert [paid(federation, name)[digest, n + 1] for n in range(rounds)] == [1] * rounds
    left_out = [line["facts"] for line in federation.audit("server", "reply_left_out")]
    assert {line["site"] for line in left_out} == {rogue.name}
    assert {line["round"] for line in left_out} == {*range(1, rounds + 1)}
    assert (rogue.name, "a reply out of bounds") in refused(federation)
    parts = json.loads((federation.server / "service.json").read_text())["parts"]
    assert {part["restarts"] for part in parts.values()} == {0}, "no process died of it"


def test_a_member_can_ask_no_other_lab_and_answers_once(
    federation: Federation, rogue: Rogue
) -> None:
    stored, victim = federation.another("asks"), honest(federation)[0]
    state = state_of(federation.server)
    (node,) = [info.node_id for info in state.get_node_info() if info.name == victim]
    asked_kinds: list[str] = []

    def ask(asked: Message) -> None:
        asked_kinds.append(asked.metadata.message_type)
        reply = Message(absence_content(Reason.PAUSED), reply_to=asked)
        forged = rogue.announced(reply)
        said = forged.messages_list[0].metadata
        said.dst_node_id, said.reply_to_message_id = node, ""
        assert rogue.push(forged) == 400
        rogue.link.push(reply)
        second = rogue.announced(Message(absence_content(Reason.HOURS), reply_to=asked))
        assert rogue.push(second) in (409, 410), "after the rounds have read the first, it is gone"

    rogue.takes_part(stored, ask)
    assert stored.said()["state"] == "completed", stored.said()
    assert "train" in asked_kinds
    digest, rounds = stored.study().digest, federation.study.rounds
    mine = {key: n for key, n in paid(federation, victim).items() if key[0] == digest}
    assert mine == {(digest, number + 1): 1 for number in range(rounds)}
    assert federation.audit(victim, "order_refused") == []
    assert (rogue.name, "no reply to what it was asked") in refused(federation)


def test_a_tree_of_very_many_objects_keeps_nobody_waiting(
    federation: Federation, rogue: Rogue
) -> None:
    request = PushMessagesRequest(node=Node(node_id=rogue.link._node.node_id))
    tree = request.message_object_trees.add(object_id="0" * 64)
    tree.children.extend(ObjectTree(object_id=f"{n:064x}") for n in range(MAX_REQUEST // 64))
    request.messages_list.add()
    assert rogue.push(request) == 413
    assert rogue.link.pull() is None


def test_who_writes_the_servers_database_can_ask_no_lab(federation: Federation) -> None:
    """What a lab gets looks as the server's messages do, but for the server's signature."""
    before = {name: paid(federation, name) for name in honest(federation)}
    state, home = state_of(federation.server), federation.server
    model = flatten(
        federated(build(federation.study.model, len(federation.study.cell_types), 16, 3))
    )
    key = load_signing_key(home / "signing.key")
    with FlowerRun(state) as run, AuditLog.open(home / "audit.jsonl", key) as log:
        envelopes = Envelopes(home, log)
        envelopes._signing_key = make_signing_key()
        grid = StateGrid(state, run.run, Event(), envelopes)
        sites = {site: node for node, site in grid.site_names().items() if site in before}
        content = Task(federation.study, 1).content(encode(model))
        sent = {
            site: Message(content, node, "train", group_id="1", ttl=60)
            for site, node in sites.items()
        }
        replies = dict(exchange(grid, sent, 60))
    for name in honest(federation):
        assert "refused: not ordered by the server" in str(replies[name])
        assert len(federation.audit(name, "order_refused")) == 1
        log = federation.log(name)
        # The lab's journal follows its answer.
        wait_until(lambda log=log: "not ordered by this site's server" in log.read_text(), "said")  # type: ignore[misc]
    assert {name: paid(federation, name) for name in honest(federation)} == before
