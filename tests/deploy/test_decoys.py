"""Real processes in a folder where somebody left modules: none of them is run.

Each decoy only writes its name into a file, so that a test sees it; what it stands for would have
been run with the lab's cells and keys in reach.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from threading import Event

import pytest

from client.home import SiteHome
from client.service.worker import Runner
from common.config.loading import dump
from common.process_pool import process_pool
from common.wire.messages import read_name
from tests.client.lab import PRIVACY, make_lab, message, study
from tests.deploy.federation import wait_until
from tests.simulations.small import simulation

ROOT = Path(__file__).parent.parent.parent
OURS = ("client", "common", "server", "simulations")
OTHERS = ("torch", "numpy", "flwr", "typer", "uvicorn", "yaml", "opacus", "rich", "PIL")
STANDARD = ("pkgutil", "socket", "json", "logging", "argparse", "queue", "multiprocessing", "fcntl")
NOW = datetime.now(UTC)


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that a process is started in, full of decoys."""
    folder = tmp_path / "shared"
    for name in (*OURS, *OTHERS, *STANDARD):
        package = folder / name
        package.mkdir(parents=True)
        (package / "__init__.py").write_text(
            f"open({str(folder / 'RAN')!r}, 'a').write('{name}\\n')\n"
        )
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    return folder


def ran(shared: Path) -> list[str]:
    """The decoys that were imported."""
    file = shared / "RAN"
    return file.read_text().split() if file.exists() else []


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """What an installer makes of `hemofed`, in a folder of its own."""
    file = tmp_path / "bin" / "hemofed"
    file.parent.mkdir()
    file.write_text("from hemofed import main\nif __name__ == '__main__':\n    main()\n")
    return file


def test_a_decoy_is_seen_when_it_is_run(shared: Path) -> None:
    subprocess.run([sys.executable, "-c", "import torch"], check=True)
    assert ran(shared) == ["torch"]


def test_the_command_runs_nothing_that_lies_where_it_is_typed(
    shared: Path, script: Path, tmp_path: Path
) -> None:
    config = tmp_path / "study.yaml"
    # Of everybody in each step: an accountant's quickest question.
    config.write_text(dump(study(privacy=PRIVACY | {"sample_rate": 1.0})))
    asks = ["privacy", "plan", str(config)]
    subprocess.run([sys.executable, str(script), *asks], check=True, capture_output=True)
    assert ran(shared) == []


@pytest.mark.parametrize("entries", [f":{ROOT}:", f".:{ROOT}", f"./:{ROOT}:."])
def test_the_folder_one_stands_in_is_named_by_no_entry_of_pythonpath(
    shared: Path, script: Path, monkeypatch: pytest.MonkeyPatch, entries: str
) -> None:
    monkeypatch.setenv("PYTHONPATH", entries)
    for name in STANDARD:  # Python's own start reads them before anything of ours is there
        (shared / name).rename(shared / f"not_{name}")
    subprocess.run([sys.executable, str(script), "--help"], check=True, capture_output=True)
    assert ran(shared) == []


def test_python_m_hemofed_runs_no_module_of_others_there(shared: Path) -> None:
    for name in STANDARD:
        (shared / name).rename(shared / f"not_{name}")
    command = [sys.executable, "-m", "hemofed", "--help"]
    subprocess.run(command, check=True, capture_output=True)
    assert ran(shared) == []


@pytest.fixture
def runner(shared: Path, tmp_path: Path) -> Iterator[Runner]:
    one = Runner(make_lab(tmp_path / "lab"), tmp_path / "runner.log")
    yield one
    one.stop()


def test_the_process_that_holds_cells_runs_none_and_keeps_to_itself(
    runner: Runner, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:")
    before = os.umask(0o000)
    try:
        reply = runner.answer(message(study(), "query"), 120.0, Event())
    finally:
        os.umask(before)
    assert read_name(reply) == "lab" and ran(shared) == []
    assert keeps_to_itself(runner.pid)


def keeps_to_itself(pid: int | None) -> bool:
    """Whether the process's files are its user's alone, and it leaves no core."""
    status, limits = (Path(f"/proc/{pid}/{name}").read_text() for name in ("status", "limits"))
    core = next(line for line in limits.splitlines() if line.startswith("Max core file size"))
    return "Umask:\t0077" in status and core.split()[4:6] == ["0", "0"]


def test_processes_that_share_out_work_run_none(shared: Path) -> None:
    with process_pool(2) as pool:
        assert list(pool.map(abs, [-1, -2])) == [1, 2]
    assert ran(shared) == []


def test_processes_that_draw_and_measure_run_none(
    shared: Path, script: Path, tmp_path: Path
) -> None:
    data, cells = [sys.executable, str(script), "data"], str(tmp_path / "cells")
    few = ["--sites", "1", "--cells", "300", "--side", "16", "--workers", "2"]
    subprocess.run([*data, "synthesize", cells, *few], check=True, capture_output=True)
    looked = subprocess.run([*data, "check", f"{cells}/cream"], capture_output=True, text=True)
    assert "WARNINGS 300 images" in looked.stdout and ran(shared) == []


def test_a_simulations_workers_run_none(shared: Path, script: Path, tmp_path: Path) -> None:
    config = tmp_path / "small.yaml"
    config.write_text(dump(simulation()))
    command = [sys.executable, str(script), "simulate", str(config), "--out", str(tmp_path / "out")]
    subprocess.run(command, check=True, capture_output=True)
    assert ran(shared) == []
    made = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert made and not any(path.stat().st_mode & 0o077 for path in made)


@pytest.mark.parametrize("where", ["among decoys", "beside the homes"])
def test_a_server_and_a_lab_started_there_run_none_and_keep_to_themselves(
    homes: tuple[Path, SiteHome],
    shared: Path,
    script: Path,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
) -> None:
    """Homes called `server` and `client` are no packages of ours, wherever one stands."""
    server, home = homes
    if where == "beside the homes":
        monkeypatch.chdir(server.parent)
        monkeypatch.setenv("PYTHONPATH", f".:{ROOT}")
    hemofed = [sys.executable, str(script)]
    with (shared / "out").open("wb") as out:
        started = [
            subprocess.Popen([*hemofed, *words], stdout=out, stderr=out, umask=0)
            for words in (["server", "start", str(server)], ["site", "start", str(home.folder)])
        ]
    try:
        wait_until(lambda: "serves 1 member" in (shared / "out").read_text(), "the server")
        wait_until(home.status.exists, "the lab", 120.0)
        for word, pids in (("superlink", parts(server)), ("runner", [runner_of(home)])):
            for pid in pids:
                wait_until(lambda pid=pid: keeps_to_itself(pid), word, 60.0)  # type: ignore[misc]
        assert all(keeps_to_itself(process.pid) for process in started)
    finally:
        for process in reversed(started):
            process.send_signal(signal.SIGTERM)
        codes = [process.wait(60) for process in started]
    assert codes == [0, 0] and ran(shared) == [], (shared / "out").read_text()
    files = [*server.rglob("*"), home.folder / "audit.jsonl", *home.state.rglob("*")]
    assert not [file for file in files if file.stat().st_mode & 0o077]


def parts(server: Path) -> list[int]:
    told = json.loads((server / "service.json").read_text())
    return [part["pid"] for part in told["parts"].values()]


def runner_of(home: SiteHome) -> int:
    return int(json.loads(home.status.read_text())["runner"])
