"""The app that stock Flower runs in `hemofed bench deploy`, written as Flower's users write theirs.

The server runs FedAvg over the tensors of the model's state_dict. A site makes one SGD step on
random images.
"""

import json
from collections.abc import Iterable
from pathlib import Path

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from torch.nn import functional as F

from common.config.loading import load
from common.config.study import Study
from common.models import build

ROUND_SECONDS = 600.0
"""Seconds after which Flower no longer waits for the replies of a round."""

server = ServerApp()
client = ClientApp()


class Noted(FedAvg):
    """FedAvg that adds a line to a file after each round, with the number of replies it counted."""

    def __init__(self, file: Path, sites: int) -> None:
        super().__init__(fraction_evaluate=0.0, min_train_nodes=sites, min_available_nodes=sites)
        self._file = file

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        replies = list(replies)
        outcome = super().aggregate_train(server_round, replies)
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"good": sum(r.has_content() for r in replies)}) + "\n")
        return outcome


@server.main()
def main(grid: Grid, context: Context) -> None:
    study = _study(context)
    strategy = Noted(Path(str(context.run_config["rounds"])), len(study.cohort))
    arrays = ArrayRecord(_network(study).state_dict())
    strategy.start(grid, arrays, num_rounds=study.rounds, timeout=ROUND_SECONDS)


@client.train()
def train(message: Message, context: Context) -> Message:
    study = _study(context)
    torch.set_num_threads(1)
    network, training = _network(study), study.training
    network.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
    optimizer = torch.optim.SGD(network.parameters(), lr=training.learning_rate)
    images = torch.rand(training.batch_size, 3, study.image_side, study.image_side)
    targets = torch.zeros(training.batch_size, dtype=torch.int64)
    F.cross_entropy(network(images), targets).backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    content = RecordDict({"arrays": ArrayRecord(network.state_dict())})
    content["metrics"] = MetricRecord({"num-examples": training.batch_size})
    return Message(content, reply_to=message)


def _study(context: Context) -> Study:
    return load(Study, Path(str(context.run_config["study"])))


def _network(study: Study) -> torch.nn.Module:
    return build(study.model, len(study.cell_types), study.image_side, study.seed)
