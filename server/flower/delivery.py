"""Delivers questions to the sites: a question is handed out whole, or it fails for good.

If the database lost a question's objects, Flower by itself drops the question and reports that the
site failed. If the names of the objects form a circle, Flower answers nobody, and the round waits
for a site that was never asked.
"""

from flwr.app import Error, Message
from sqlalchemy.exc import SQLAlchemyError

from common.wire.flower_internals import (
    ObjectTree,
    PullMessagesRequest,
    PullMessagesResponse,
    message_to_proto,
)
from common.wire.flower_objects import identifiers
from common.wire.reply_status import LOST
from server.flower.internals import LinkState, NoObjectInStoreError
from server.rounds.reply_checks import Question, error_in_place


class LostError(Exception):
    """The database lost a part of a question; it was answered as failed and is not sent again."""

    def __init__(self, question: Question) -> None:
        super().__init__(f"question {question.identifier:.12}")
        self.question = question


def hand_out(request: PullMessagesRequest, state: LinkState) -> PullMessagesResponse:
    """Return the node's next question with the names of its objects, or an empty response.

    Raises:
        LostError: an object of the question is lost. The rounds are told at once.
    """
    for message in state.get_message_ins(node_id=request.node.node_id, limit=1):
        try:
            tree = state.object_store.get_object_tree(message.metadata.message_id)
            _check_held(state, tree)
        except SQLAlchemyError:  # a fault of the database, not of its content
            raise
        except Exception as error:
            question = _question(message)
            state.store_message_res(error_in_place(question, Error(LOST, "lost at the server")))
            raise LostError(question) from error
        return PullMessagesResponse(
            messages_list=[message_to_proto(message)], message_object_trees=[tree]
        )
    return PullMessagesResponse()


def _check_held(state: LinkState, tree: ObjectTree) -> None:
    """Raise NoObjectInStoreError if an object of the tree is lost; one that is still on its way is
    not."""
    for name in identifiers(tree):
        if state.object_store.get(name) is None:
            raise NoObjectInStoreError(f"object {name:.12} is named and not there")


def _question(message: Message) -> Question:
    said = message.metadata
    return Question(
        identifier=said.message_id,
        run=said.run_id,
        node=said.dst_node_id,
        kind=said.message_type,
        group=said.group_id,
        created=said.created_at,
        ttl=said.ttl,
        reply="",
        pieces=0,
    )
