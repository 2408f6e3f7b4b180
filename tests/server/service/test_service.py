"""A server that cannot serve says so at once; one that can says where, and its status is true."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from threading import Event, Timer

import pytest
from typer.testing import CliRunner

from common.errors import ConfigError
from common.identity.keys import PASSPHRASE_VARIABLE
from server.membership.provisioning import make_server
from server.service import preflight, supervised_process
from server.service.cli import app
from server.service.service import Service
from server.service.supervised_process import Part
from simulations.bench.processes import free_port

NOW = datetime.now(UTC)
KEYS = ("ca.key", "server.key", "signing.key")


@pytest.fixture(autouse=True)
def _no_passphrase(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PASSPHRASE_VARIABLE, raising=False)
    monkeypatch.setattr(preflight, "_FREE_SECONDS", 0.2)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    make_server(tmp_path / "server", f"127.0.0.1:{free_port()}", NOW)
    return tmp_path / "server"


@pytest.mark.parametrize("key", KEYS)
def test_a_private_key_that_others_can_read_is_refused(home: Path, key: str) -> None:
    (home / key).chmod(0o644)
    with pytest.raises(ConfigError, match=rf"{key}: mode 0644 .*chmod 600"):
        Service(home)
    assert not (home / "logs").exists()
    (home / key).chmod(0o600)
    Service(home)


@pytest.mark.parametrize("name", ["registry.json", "signing.pub", "server.crt", "studies", "."])
def test_a_home_that_others_may_write_is_not_served(home: Path, name: str) -> None:
    (home / "studies").mkdir(mode=0o700)
    (home / name).chmod(0o702)
    with pytest.raises(ConfigError, match=r"mode 0702 lets other users write it; type `chmod go-w"):
        Service(home)


def test_an_authority_key_kept_elsewhere_is_not_missed(home: Path) -> None:
    (home / "ca.key").unlink()
    Service(home)
    (home / "server.key").unlink()
    with pytest.raises(ConfigError, match=r"server.key: .* cannot be read"):
        Service(home)


@pytest.mark.parametrize(
    ("given", "words"),
    [(None, "is encrypted; set HEMOFED_PASSPHRASE"), ("x", "passphrase is wrong")],
)
def test_encrypted_keys_without_their_passphrase(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str | None, words: str
) -> None:
    make_server(tmp_path / "s", f"127.0.0.1:{free_port()}", NOW, "secret")
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    if given:
        monkeypatch.setenv(PASSPHRASE_VARIABLE, given)
    with pytest.raises(ConfigError, match=f"ca.key: .*{words}"):
        Service(tmp_path / "s")
    monkeypatch.setenv(PASSPHRASE_VARIABLE, "secret")
    Service(tmp_path / "s")


def test_a_port_that_is_taken_or_not_of_this_machine(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"127.0.0.1:{taken}: .*Address already in use"):
            Service(home, f"127.0.0.1:{taken}")
    Service(home, f"127.0.0.1:{taken}")
    with pytest.raises(ConfigError, match=r"192.0.2.1:\d+: .*assign requested address"):
        Service(home, f"192.0.2.1:{taken}")


def test_a_part_that_ends_again_and_again_is_said_with_its_last_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervised_process, "_LONGEST_PAUSE", 0.01)
    command = [sys.executable, "-c", "print('loading'); print('no such table'); print()"]
    one = Part("rounds", command, tmp_path / "rounds.log", {})

    def end() -> None:
        while one.process is None:  # not due yet
            one.look()
        one.process.wait()
        one.look()

    end()
    assert not caplog.messages
    while one.restarts < 2:
        end()
    assert caplog.messages
    assert re.search(
        r"rounds: ended right after its start, 2 times .*: no such table$", said(caplog)
    )


def said(caplog: pytest.LogCaptureFixture) -> str:
    return caplog.messages[0]


@pytest.fixture
def started(home: Path) -> Iterator[tuple[Path, "subprocess.Popen[str]"]]:
    """A server as the command starts it, and its first line read."""
    command = [sys.executable, "-m", "tests.deploy.command", "server", "start", str(home)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as service:
        try:
            yield home, service
        finally:
            for pid in pids(home):
                os.kill(pid, signal.SIGKILL)
            service.kill()


def pids(home: Path) -> list[int]:
    told = json.loads((home / "service.json").read_text())
    return [content["pid"] for content in told["parts"].values()]


def status(home: Path) -> str:
    result = CliRunner().invoke(app, ["status", str(home)], env={"COLUMNS": "300"})
    assert result.exit_code == 0, result.output
    return result.output


def test_a_good_start_says_where_and_the_status_says_what_was_killed(
    started: tuple[Path, "subprocess.Popen[str]"], monkeypatch: pytest.MonkeyPatch
) -> None:
    home, service = started
    assert service.stdout is not None
    line = service.stdout.readline()
    assert re.search(r"serves 0 member sites at 127.0.0.1:\d+; .*kill \d+` stops it", line)
    monkeypatch.chdir(home.parent)
    before = status(Path("server"))
    assert before.count("restarted 0 times") == 2 and "killed" not in before
    service.kill()
    service.wait()
    os.kill(pids(home)[1], signal.SIGKILL)
    wait_until_gone(pids(home)[1])
    after = status(Path("server"))
    assert f"the service was killed (process {service.pid})" in after
    assert f"superlink: process {pids(home)[0]}, left over" in after
    assert f"rounds: process {pids(home)[1]} is gone" in after
    assert "restarted" not in after


def wait_until_gone(pid: int) -> None:
    end = time.monotonic() + 10
    while time.monotonic() < end:
        try:
            if not Path(f"/proc/{pid}/cmdline").read_bytes():
                return
        except OSError:
            return
        time.sleep(0.05)


@pytest.mark.parametrize(("shown", "listens"), [("[::1]",) * 2, ("[2001:db8::5]", "[::]")])
def test_the_service_listens_by_the_protocol_of_its_address(
    tmp_path: Path, shown: str, listens: str
) -> None:
    port = free_port()
    make_server(tmp_path / "server", f"{shown}:{port}", NOW)
    halt, said = Event(), list[str]()

    def say(words: str) -> None:
        said.append(words)
        with socket.create_connection(("::1", port)):
            halt.set()

    late = Timer(120.0, halt.set)
    late.start()
    Service(tmp_path / "server").run(halt, say)
    late.cancel()
    assert [f"member sites at {listens}:{port}; Ctrl-C" in words for words in said] == [True]


def test_a_port_of_ipv4_is_not_one_of_ipv6(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        Service(home, f"[::]:{other.getsockname()[1]}")
