"""A question on its way to its site: handed out whole, or failed, once and for all.

Where the database lost a question's objects, Flower drops the question, and tells whoever waits for
the answer that the site failed; where their names go round in a circle, it answers nobody anything,
and the round waits for a site that was never asked.
"""

from flwr.app import Error, Message
from sqlalchemy.exc import SQLAlchemyError

from common.wire.flower_internals import PullMessagesRequest, PullMessagesResponse, message_to_proto
from common.wire.reply_status import LOST
from server.flower.internals import LinkState
from server.rounds.reply_checks import Question, error_in_place


class LostError(Exception):
    """The database has not all of a question; it was answered as failed, and is asked no more."""

    def __init__(self, question: Question) -> None:
        super().__init__(f"question {question.identifier:.12}")
        self.question = question


def hand_out(request: PullMessagesRequest, state: LinkState) -> PullMessagesResponse:
    """The node's next question with the names of its objects; nothing when there is none.

    Raises LostError when the objects cannot be named; who asked hears of it at once.
    """
    for message in state.get_message_ins(node_id=request.node.node_id, limit=1):
        try:
            tree = state.object_store.get_object_tree(message.metadata.message_id)
        except SQLAlchemyError:  # of the database, not of what lies in it
            raise
        except Exception as error:
            question = _question(message)
            state.store_message_res(error_in_place(question, Error(LOST, "lost at the server")))
            raise LostError(question) from error
        return PullMessagesResponse(
            messages_list=[message_to_proto(message)], message_object_trees=[tree]
        )
    return PullMessagesResponse()


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
