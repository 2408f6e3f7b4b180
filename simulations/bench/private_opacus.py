"""The peer of `hemofed bench private`: Opacus on Flower's Ray simulation, as its users write it.

FedAvg over a head's state_dict. A site keeps its features, makes a PrivacyEngine each round over
what its accountant had written down, trains on Poisson batches, and asks for its epsilon.
"""

import os
import warnings
from collections.abc import Callable, Iterable
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from torch.utils.data import DataLoader, TensorDataset

from client.site import SITES_VARIABLE, open_site, site_file
from client.training.workspace import workspace
from common.config.loading import load
from common.config.study import Study

client = ClientApp()

_STUDY = "HEMOFED_BENCH_STUDY"


class NotedRounds(FedAvg):
    """FedAvg that tells when a round is over, and refuses one that a site did not answer."""

    def __init__(self, sites: int, over: Callable[[], None]) -> None:
        super().__init__(fraction_evaluate=0.0, min_train_nodes=sites, min_available_nodes=sites)
        self._over = over

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        replies = list(replies)
        for reply in replies:
            if reply.has_error():
                raise RuntimeError(f"round {server_round}: {reply.error.reason}")
        outcome = super().aggregate_train(server_round, replies)
        self._over()
        return outcome


def run(folder: Path, workers: int, rounds: int, over: Callable[[], None]) -> None:
    """Run the first `rounds` rounds of the study in `folder`, calling `over` after each."""
    os.environ[SITES_VARIABLE] = str((folder / "sites").absolute())
    os.environ[_STUDY] = str((folder / "study.yaml").absolute())
    study, app = _study(), ServerApp()
    noise = _noise_multiplier(study)

    @app.main()
    def main(grid: Grid, _context: Context) -> None:
        head = _network(study).state_dict()
        config = ConfigRecord({"noise": noise})
        strategy = NotedRounds(len(study.cohort), over)
        strategy.start(grid, ArrayRecord(head), num_rounds=rounds, train_config=config)

    resources: dict[str, Any] = {
        "init_args": {"num_cpus": workers, "include_dashboard": False, "log_to_driver": False},
        "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
    }
    run_simulation(app, client, num_supernodes=len(study.cohort), backend_config=resources)


@client.train()
def train(message: Message, context: Context) -> Message:
    from opacus import PrivacyEngine  # slow to import

    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    study = _study()
    head, privacy = _network(study), study.privacy
    noise: Any = message.content.config_records["config"]["noise"]
    head.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
    data = _data(str(site_file(context)))
    engine = PrivacyEngine(accountant="rdp")
    engine.accountant.history = _history(context)
    private, optimizer, loader = engine.make_private(
        module=head,
        optimizer=torch.optim.SGD(head.parameters(), lr=study.training.learning_rate),
        data_loader=DataLoader(data, batch_size=round(privacy.sample_rate * len(data))),
        noise_multiplier=noise,
        max_grad_norm=privacy.max_grad_norm,
    )
    criterion = torch.nn.CrossEntropyLoss()
    for features, targets in islice(loader, privacy.local_steps):
        optimizer.zero_grad()
        criterion(private(features), targets).backward()
        optimizer.step()
    _keep(context, engine.accountant.history)
    content = RecordDict({"arrays": ArrayRecord(private._module.state_dict())})
    spent = engine.get_epsilon(privacy.delta)
    content["metrics"] = MetricRecord({"num-examples": len(data), "epsilon": float(spent)})
    return Message(content, reply_to=message)


def _history(context: Context) -> list[tuple[float, float, int]]:
    """(noise multiplier, sample rate, steps) of the site's rounds before."""
    if "history" not in context.state.config_records:
        return []
    kept = context.state.config_records["history"]
    columns: list[Any] = [kept[name] for name in ("noise", "rate", "steps")]
    return list(zip(*columns, strict=True))


def _keep(context: Context, history: list[tuple[float, float, int]]) -> None:
    noise, rate, steps = (list(column) for column in zip(*history, strict=True))
    context.state["history"] = ConfigRecord({"noise": noise, "rate": rate, "steps": steps})


def _noise_multiplier(study: Study) -> float:
    from opacus.accountants.utils import get_noise_multiplier

    privacy = study.privacy
    return float(
        get_noise_multiplier(
            target_epsilon=privacy.epsilon,
            target_delta=privacy.delta,
            sample_rate=privacy.sample_rate,
            steps=privacy.local_steps * study.rounds,
            accountant="rdp",
        )
    )


@lru_cache
def _study() -> Study:
    return load(Study, Path(os.environ[_STUDY]))


def _network(study: Study) -> torch.nn.Module:
    from common.models import build

    return build(study.model, len(study.cell_types), study.image_side, study.seed).head


@lru_cache
def _data(site: str) -> TensorDataset:
    """The frozen encoder's features of the site's cells and their classes, computed once."""
    inputs = workspace(open_site(Path(site)), _study()).inputs
    if inputs.features is None:
        raise RuntimeError("the study's encoder is not frozen")
    return TensorDataset(inputs.features, torch.from_numpy(inputs.cells.labels))
