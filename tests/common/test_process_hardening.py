"""What a process that holds cells or keys does first: no core, no tracer, no loose files."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from common.process_hardening import environment, python

ROOT = Path(__file__).parent.parent.parent
HEEDS = ("env", "--default-signal=HUP")
"""Whatever the tests themselves were started by, like nohup."""
_ASKS = """
import ctypes, os, resource
from common.process_hardening import keep_secrets, keep_to_itself
keep_to_itself()
assert ctypes.CDLL(None).prctl(3, 0, 0, 0, 0) == 1
keep_secrets()
dumpable = ctypes.CDLL(None).prctl(3, 0, 0, 0, 0)
print(dumpable, resource.getrlimit(resource.RLIMIT_CORE), oct(os.umask(0)))
print(os.environ["PYTHONSAFEPATH"], os.environ["PYTHONPATH"])
"""


def test_it_leaves_no_core_and_cannot_be_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", f":{ROOT}::")
    done = subprocess.run(
        [sys.executable, "-c", _ASKS], check=True, capture_output=True, text=True, umask=0, cwd=ROOT
    )
    assert done.stdout.splitlines() == ["0 (0, 0) 0o77", f"1 {ROOT}"]


_SAYS = "import ctypes, sys; dumpable = lambda *_: sys.exit(ctypes.CDLL(None).prctl(3) + 40)"


@pytest.mark.parametrize(
    ("module", "asks", "words"),
    [
        ("client.service.worker", "serve", ["site.yaml", "0"]),
        ("server.fleet_api.superlink", "serve", ["home", "localhost", "1"]),
        ("server.studies.runner", "check_room", ["home"]),
        ("hemofed", "app", ["site", "status"]),
        ("hemofed", "app", ["server", "status"]),
    ],
)
def test_each_process_of_a_deployment_keeps_its_secrets(
    module: str, asks: str, words: list[str]
) -> None:
    """Before the first thing that it does: what that is says how it stands with tracers."""
    code = f"{_SAYS}; import {module} as one; one.{asks} = dumpable; one.main()"
    assert subprocess.run([*python("-c", code), *words], cwd=ROOT).returncode == 40


def test_a_simulation_can_be_measured() -> None:
    code = f"{_SAYS}; import hemofed as one; one.app = dumpable; one.main()"
    assert subprocess.run([*python("-c", code), "simulate"], cwd=ROOT).returncode == 41


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("", ""),
        (":", ""),
        ("/a", "/a"),
        (":/a:", "/a"),
        ("/a::/b", "/a:/b"),
        (".", ""),
        ("x:/a", "/a"),
    ],
)
def test_only_folders_that_were_named_are_left_in_pythonpath(
    given: str, kept: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", given)
    assert environment()["PYTHONPATH"] == kept and environment()["PYTHONSAFEPATH"] == "1"
    assert environment()["PATH"] == os.environ["PATH"]


def test_a_command_for_this_interpreter_is_safe() -> None:
    code = "import sys; print(sys.flags.safe_path, '' in sys.path)"
    done = subprocess.run(python("-c", code), check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["True", "False"]


_WAITS = (
    "from common.process_hardening import told_to_stop; "
    "told = told_to_stop(); print(1, flush=True); told.wait()"
)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_asks_the_process_to_end(number: signal.Signals) -> None:
    with subprocess.Popen([*HEEDS, *python("-c", _WAITS)], cwd=ROOT, stdout=subprocess.PIPE) as one:
        assert one.stdout is not None and one.stdout.readline()
        one.send_signal(number)
        assert one.wait(60) == 0


def test_nohup_keeps_a_hangup_from_ending_it() -> None:
    with subprocess.Popen(
        ["nohup", *python("-c", _WAITS)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as one:
        assert one.stdout is not None and one.stdout.readline()
        one.send_signal(signal.SIGHUP)
        ignored = Path(f"/proc/{one.pid}/status").read_text().split("SigIgn:")[1].split()[0]
        assert int(ignored, 16) & 1 << signal.SIGHUP - 1 and one.poll() is None
        one.send_signal(signal.SIGTERM)
        assert one.wait(60) == 0
