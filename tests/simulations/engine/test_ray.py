"""The same apps to the same bits on Ray: on a cluster of its own, and on one that runs already."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster as Loopback
from typer import BadParameter

from common.config.loading import dump
from common.config.study import Runtime
from common.errors import ConfigError
from common.wire.flower_internals import TaskIdentity
from simulations.cli import simulate as simulate_command
from simulations.config import Simulation
from simulations.engine.cluster import (
    ADDRESS_VARIABLE,
    NICENESS_VARIABLE,
    ClientShare,
    Cluster,
    Node,
    places,
)
from simulations.engine.node_check import fault, mark, versions
from simulations.engine.ray_workers import _gpus, actors, ray_cluster
from simulations.engine.workers import WorkerPool, WorkersGoneError
from simulations.run import federate
from tests.simulations.engine import mortal
from tests.simulations.small import MASKED, PRIVATE, Silent, numbers, simulation

pytestmark = pytest.mark.filterwarnings("ignore")  # of Ray's own, in this process
ROUNDS = 20
APART = ("unshare", "--user", "--map-root-user", "--mount")
"""Starts a process that may mount what it alone sees."""


def simulate(*words: object, address: str | None = None) -> subprocess.Popen[str]:
    """`hemofed simulate` on Ray; RAY_ADDRESS names the cluster."""
    named = {ADDRESS_VARIABLE: address} if address else {}
    return subprocess.Popen(
        [sys.executable, "-m", "hemofed", "simulate", *map(str, words), "--backend", "ray"],
        env={**os.environ, **named},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def end(process: subprocess.Popen[str]) -> tuple[int, str]:
    """What it ends with and prints; it may not hang."""
    said, _ = process.communicate(timeout=300)
    return process.returncode, " ".join(said.split())


def until_round(number: int, out: Path, process: subprocess.Popen[str]) -> None:
    """Return once the run in `out` has done so many rounds. Fails when it has ended before."""
    done = out / "rounds.jsonl"
    while not done.exists() or len(done.read_text().splitlines()) < number:
        try:
            process.wait(0.05)
        except subprocess.TimeoutExpired:
            continue
        raise AssertionError(process.communicate()[0])


@pytest.fixture(scope="module")
def config() -> Simulation:
    return simulation(study={"rounds": ROUNDS, "privacy": PRIVATE | {"spare_rounds": 5}})


@pytest.fixture(scope="module")
def file(config: Simulation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "config.yaml"
    path.write_text(dump(config))
    return path


@pytest.fixture(scope="module")
def local(config: Simulation, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The model that workers of this machine end with."""
    out = tmp_path_factory.mktemp("local")
    federate(config, out, Silent())
    return numbers(out)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Loopback]:
    """Two nodes on this machine: one, the head; two, which says that it has a GPU."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv(NICENESS_VARIABLE, "0")
        found = Loopback(initialize_head=True, head_node_args={"num_cpus": 1, "node_name": "one"})
        found.add_node(num_cpus=3, num_gpus=1, node_name="two")
        yield found
        found.shutdown()


def test_clients_share_a_gpu_and_one_that_dies_is_replaced(cluster: Loopback) -> None:
    TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1
    share = ClientShare(cpus=1, gpus=0.5)
    with Cluster(cluster.address) as joined:
        nodes = places(joined.nodes, share, most=None)
        assert [node.name for node in nodes] == ["two", "two"]
        with WorkerPool(2, actors(joined, nodes, share, mortal.make, 0)) as pool:
            asked = [
                pool.submit(mortal.asked(number, number == 2), mortal.context())
                for number in range(6)
            ]
            replies = [future.result(120)[0] for future in asked]
    dead = replies.pop(2)
    assert dead.error.reason == "the worker died (on Ray node two, EOFError)"
    said = [reply.content.config_records["said"] for reply in replies]
    assert [one["number"] for one in said] == [0, 1, 3, 4, 5]
    assert {one["gpus"] for one in said} == {"0"}


def test_a_run_outlives_a_node_to_the_same_bits(
    cluster: Loopback, file: Path, local: bytes, tmp_path: Path
) -> None:
    two = cluster.add_node(num_cpus=1, node_name="mortal")
    process = simulate(file, "--out", tmp_path, "--workers", 3, address=cluster.address)
    until_round(2, tmp_path, process)
    two.kill_all_processes(check_alive=False, allow_graceful=False)
    code, said = end(process)
    assert code == 6 and "Traceback" not in said, said
    assert "error: Ray node mortal has left" in said and "--resume" in said
    code, said = end(
        simulate("--resume", tmp_path, "--workers", 2, "--ray-address", cluster.address)
    )
    assert code == 0, said
    assert numbers(tmp_path) == local


def test_sums_under_masks_come_to_the_same_bits(cluster: Loopback, tmp_path: Path) -> None:
    """Keys are made again in whatever process a message comes to."""
    config, path = simulation(study={"privacy": MASKED}), tmp_path / "config.yaml"
    path.write_text(dump(config))
    federate(config, tmp_path / "local", Silent())
    out = tmp_path / "ray"
    code, said = end(simulate(path, "--out", out, "--workers", 2, address=cluster.address))
    assert code == 0, said
    assert numbers(out) == numbers(tmp_path / "local")


@pytest.mark.skipif(
    not shutil.which("unshare") or subprocess.run([*APART, "true"]).returncode != 0,
    reason="the system lets nobody mount anything",
)
def test_a_node_that_does_not_see_the_sites_is_named(
    cluster: Loopback, file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "runs" / "one"
    out.mkdir(parents=True)
    ray = Path(sys.executable).with_name("ray")
    start = f"{ray} start --address {cluster.address} --num-cpus 1 --node-name blind --block"
    hide = f"mount -t tmpfs none {out.parent} && exec {start}"
    with subprocess.Popen(
        [*APART, "sh", "-c", hide],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as blind:
        try:
            heard = []
            while not any("runtime started" in line for line in heard):
                heard.append(blind.stdout.readline())  # type: ignore[union-attr]
                assert heard[-1], heard
            code, said = end(simulate(file, "--out", out, address=cluster.address))
        finally:
            blind.terminate()
    assert code == 2 and "Traceback" not in said, said
    assert "error: Ray node blind (" in said and f"{out}/sites/" in said.replace(" ", "")


def test_a_run_ends_when_ray_ends(cluster: Loopback, file: Path, tmp_path: Path) -> None:
    """The last test of this cluster."""
    process = simulate(file, "--out", tmp_path, address=cluster.address)
    until_round(2, tmp_path, process)
    cluster.head_node.kill_all_processes(check_alive=False, allow_graceful=False)
    code, said = end(process)
    assert code == 6 and "Traceback" not in said, said
    assert "error: Ray has ended" in said


def test_a_cluster_is_started_where_none_is_named(file: Path, local: bytes, tmp_path: Path) -> None:
    code, said = end(simulate(file, "--workers", 1, "--out", tmp_path))
    assert code == 0, said
    assert numbers(tmp_path) == local


def node(name: str, cpus: float, gpus: float = 0) -> Node:
    return Node(name, "127.0.0.1", 1, cpus=cpus, gpus=gpus)


@pytest.mark.parametrize(
    ("share", "most", "names"),
    [
        (ClientShare(1, 0), None, "abcbcc"),
        (ClientShare(1, 0), 4, "abcb"),
        (ClientShare(2, 0), None, "bc"),
        (ClientShare(1, 0.5), None, "bcbc"),
        (ClientShare(1, 1), None, "bc"),
        (ClientShare(1, 0.4), 3, "bcb"),
        (ClientShare(3, 0), 5, "c"),
    ],
)
def test_clients_go_to_the_nodes_in_turn_as_long_as_there_is_room(
    share: ClientShare, most: int | None, names: str
) -> None:
    nodes = [node("a", 1), node("b", 2, 1), node("c", 3, 1)]
    assert "".join(one.name for one in places(nodes, share, most)) == names


def test_a_share_that_no_node_has_is_refused_with_what_each_has() -> None:
    with pytest.raises(ConfigError, match=r"1 CPU and 0.5 GPU .*: a: 4 CPU, 0 GPU"):
        places([node("a", 4)], ClientShare(1, 0.5), None)


def test_a_gpu_of_a_machine_cannot_be_named_on_ray() -> None:
    with pytest.raises(ConfigError, match="cuda:1: Ray hands out the GPUs of its nodes"):
        ray_cluster(Runtime(device="cuda:1"), None)


@pytest.mark.parametrize(
    ("runtime", "there", "share"),
    [
        (Runtime(), 0, 0.0),
        (Runtime(), 2, 1.0),
        (Runtime(device="cuda"), 0, 1.0),
        (Runtime(device="cpu"), 2, 0.0),
        (Runtime(gpus_per_client=0), 2, 0.0),
        (Runtime(gpus_per_client=0.25), 2, 0.25),
    ],
)
def test_a_client_has_a_gpu_to_itself_unless_told_otherwise(
    runtime: Runtime, there: float, share: float
) -> None:
    assert _gpus([node("a", 4), node("b", 4, there)], runtime) == share


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("127.0.0.1:9", "nothing answers there"),
        ("ray://127.0.0.1:10001", "neither HOST:PORT"),
        ("somewhere", "neither HOST:PORT"),
    ],
)
def test_an_address_without_a_cluster_is_refused(address: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        ray_cluster(Runtime(), address)


def test_an_address_is_for_ray() -> None:
    with pytest.raises(BadParameter, match="--ray-address is for --backend ray"):
        simulate_command("quickstart", ray_address="127.0.0.1:9")


class Gone:
    """A cluster that has ended."""

    there = False

    def check(self) -> None:
        raise WorkersGoneError("Ray has ended")

    def use(self, nodes: object) -> None: ...


def test_who_waits_for_an_answer_is_told_that_ray_has_ended() -> None:
    TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1
    start = actors(Gone(), [node("a", 1)], ClientShare(1, 0), mortal.make, 0)  # type: ignore[arg-type]
    with WorkerPool(1, start) as pool, pytest.raises(WorkersGoneError, match="Ray has ended"):
        pool.submit(mortal.asked(1), mortal.context()).result(60)


def test_what_a_node_lacks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, folder = tmp_path / "site.yaml", tmp_path / "cells"
    folder.mkdir()
    file.write_text("one")
    marks = {str(path): mark(path) for path in (file, folder)}
    assert fault(marks, [str(tmp_path)], versions()) == ""
    assert "has torch" in fault(marks, [], versions() | {"torch": "1.0"})
    file.write_text("another")
    assert fault(marks, [], versions()).startswith(f"{file} is not there, or is another")
    file.write_text("one")
    (folder / "more").touch()
    assert fault(marks, [], versions()).startswith(f"{folder} is not there, or is another")
    (folder / "more").unlink()
    monkeypatch.setattr(os, "access", lambda path, how: False)
    assert fault(marks, [str(tmp_path)], versions()).startswith(f"{tmp_path} cannot be written")
