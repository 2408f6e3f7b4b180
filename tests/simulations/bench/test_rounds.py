"""`hemofed bench rounds`: peers run by their own interpreters, on the work of the bare loop."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from typer import BadParameter

from common.config.loading import dump
from common.config.study import ModelSpec, Study
from common.errors import ConfigError
from common.files import write_text
from common.models import build
from simulations.bench import rounds
from simulations.bench.cli import Bench, bench
from simulations.bench.peer_frameworks import Peer
from simulations.bench.peers.network import network
from simulations.bench.peers.work import SharedWork
from simulations.bench.round_peers import FRAMEWORKS
from simulations.bench.round_times import RoundTimes
from simulations.bench.rounds_contestant import bare
from simulations.bench.sums import masking

FAKE = """#!{python}
import json, os, sys
safe, how, what, *rest = sys.argv[1:]
if how == "-c":
    print("a warning first")
    print(json.dumps({{"version": "9.9", "gil": {gil}}}))
else:
    found = sorted(os.listdir(os.environ["PYTHONPATH"]))
    asked = [safe, how, what, *rest, *found]
    print(json.dumps({{"ends": [1.0, 3.0, 6.0], "memory": 2**20, "weights": [], "asked": asked}}))
"""


def _executable(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o755)
    return path


def _small(plan: Path) -> Study:
    study = rounds._study(2, rounds.CNN, rounds.IMAGES, rounds=2)
    write_text(plan / "study.yaml", dump(study))
    rounds.write_sites(plan, study)
    return study


@pytest.mark.parametrize("gil", [True, False])
def test_a_peer_is_run_by_its_interpreter_and_reported(tmp_path: Path, gil: bool) -> None:
    fake = _executable(tmp_path / "python", FAKE.format(python=sys.executable, gil=gil))
    entries = Peer.named(f"blazefl={fake}", FRAMEWORKS).entries(tmp_path, str(tmp_path))
    title = "BlazeFL 9.9" if gil else "BlazeFL 9.9, no GIL"
    assert list(entries) == [f"{title}, 2 threads", f"{title}, 2 processes"]
    for (name, say), how in zip(entries.items(), ("threads", "processes"), strict=True):
        module = "simulations.bench.peers.on_blazefl"
        assert say()["asked"] == ["-P", "-m", module, str(tmp_path), how, "simulations"]
        figures = rounds.measure(name, say, rounds.SameModel())
        assert figures["seconds"] == 2.5 and figures["memory, MiB"] == 1.0


def test_the_peers_run_beside_all_others_on_work_that_is_written(tmp_path: Path) -> None:
    fake = _executable(tmp_path / "python", FAKE.format(python=sys.executable, gil=True))
    study = _small(tmp_path)
    measures = rounds.contestants(tmp_path, study, [Peer.named(f"pfl={fake}", FRAMEWORKS)])
    assert list(measures) == [*rounds._CONTESTANTS, "pfl-research 9.9, 2 processes"]
    assert SharedWork.read(tmp_path).rows.shape == (2, rounds.IMAGES)


def test_hemofed_itself_runs_the_study(tmp_path: Path) -> None:
    """A study without privacy asks for a ledger, too: what leaves unprotected is noted there."""
    measures = rounds.contestants(tmp_path, _small(tmp_path), [])
    figures = measures["hemofed, 1 worker"]()
    assert figures["seconds"] > 0 and figures["memory, MiB"] > 0


def test_an_interpreter_without_the_package_is_named_with_what_to_do(tmp_path: Path) -> None:
    bare_python = f'#!/bin/sh\nexec {sys.executable} -S "$@"\n'
    without = _executable(tmp_path / "python", bare_python)
    with pytest.raises(ConfigError, match="No module named 'pfl'") as told:
        Peer.named(f"pfl={without}", FRAMEWORKS).entries(tmp_path)
    assert str(without) in str(told.value) and FRAMEWORKS["pfl"].recipe() in str(told.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("torch=/usr/bin/python3", "give pfl=PYTHON or blazefl=PYTHON"),
        ("pfl", "give pfl=PYTHON or blazefl=PYTHON"),
        ("pfl=", "is no interpreter; make its environment"),
        ("blazefl=/not/there", "is no interpreter; make its environment"),
        ("blazefl=/tmp", "is no interpreter; make its environment"),
    ],
)
def test_what_names_no_peer_is_refused(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Peer.named(text, FRAMEWORKS)


def test_peers_are_for_rounds_and_masking_and_reach_them(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadParameter, match="--peer is for rounds and masking"):
        bench(Bench.NOISE, peer=["pfl=python"])
    asked: dict[str, Any] = {}
    for which, module in ((Bench.ROUNDS, rounds), (Bench.MASKING, masking)):
        asked.clear()
        monkeypatch.setattr(module, "run", lambda *_, **named: asked.update(named))
        bench(which, peer=["pfl=python", "blazefl=other"])
        assert asked == {"peers": ["pfl=python", "blazefl=other"]}


@pytest.mark.parametrize("width", [8, 16])
def test_the_peers_network_is_cnn(width: int) -> None:
    ours = build(ModelSpec(name="cnn", width=width), 3, rounds.SIDE, seed=1)
    theirs = network(width, 3)
    vector_to_parameters(parameters_to_vector(ours.parameters()), theirs.parameters())
    shapes = [[value.shape for value in one.parameters()] for one in (ours, theirs)]
    assert shapes[0] == shapes[1]
    images = torch.randn(4, 3, rounds.SIDE, rounds.SIDE, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours(images), theirs(images))


def _averaged(work: SharedWork) -> list[float]:
    """Federated averaging as a peer should do it."""
    settings, weights = work.settings, torch.from_numpy(work.weights)
    for _ in range(settings.rounds):
        trained = []
        for client in range(len(work.rows)):
            model = replace(work, weights=weights.numpy()).model()
            optimizer = torch.optim.SGD(model.parameters(), lr=settings.learning_rate)
            images, targets = work.cells(client)
            for at in range(0, len(targets), settings.batch_size):
                batch = slice(at, at + settings.batch_size)
                optimizer.zero_grad()
                F.cross_entropy(model(images[batch]), targets[batch]).backward()
                optimizer.step()
            trained.append(parameters_to_vector(model.parameters()).detach())
        weights = torch.stack(trained).mean(dim=0)
    found: list[float] = weights.tolist()
    return found


def test_the_shared_work_is_the_bare_loops_and_a_change_of_it_is_seen(tmp_path: Path) -> None:
    study = _small(tmp_path)
    rounds.shared_work(tmp_path, study).write(tmp_path)
    work, same = SharedWork.read(tmp_path), rounds.SameModel()
    same.check("bare", bare(tmp_path).weights)
    same.check("theirs", _averaged(work))
    changes: list[Callable[[SharedWork], SharedWork]] = [
        lambda one: replace(one, rows=one.rows[:, ::-1].copy()),
        lambda one: replace(one, rows=one.rows[[0, 0]]),
        lambda one: replace(one, settings=replace(one.settings, rounds=1)),
        lambda one: replace(one, settings=replace(one.settings, learning_rate=0.049)),
    ]
    for change in changes:
        with pytest.raises(RuntimeError, match="theirs: a weight is .* off"):
            same.check("theirs", _averaged(change(work)))


def test_a_model_that_is_no_number_is_not_the_same() -> None:
    same = rounds.SameModel()
    same.check("bare", [0.0, 1.0])
    with pytest.raises(RuntimeError, match="off"):
        same.check("other", [0.0, float("nan")])


def test_what_a_contestant_says_is_one_line_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    clock = RoundTimes(rounds=1)
    clock.tick()
    clock.say()
    (line,) = capsys.readouterr().out.splitlines()
    assert set(json.loads(line)) == {"ends", "memory", "weights"} and json.loads(line)["memory"]
