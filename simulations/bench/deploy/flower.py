"""Stock Flower as contestant of `hemofed bench deploy`: a SuperLink, SuperNodes and `flwr run`.

They run as Flower's documentation shows: with TLS, node authentication, subprocess isolation, and
the state in memory.
"""

import os
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives import serialization as form

from common.config.study import Study
from common.identity.keys import make_node_key
from server.membership.provisioning import make_server
from server.service.service import SETTINGS
from simulations.bench.deploy import app
from simulations.bench.processes import SERVER, Processes, free_port

_START_SECONDS = 60.0
_PYPROJECT = """
[project]
name = "bench"
version = "1.0.0"
license = "Apache-2.0"
dependencies = []
[tool.flwr.app]
publisher = "bench"
[tool.flwr.app.components]
serverapp = "app:server"
clientapp = "app:client"
[tool.flwr.app.config]
study = "{study}"
rounds = "{rounds}"
"""
_CONNECTION = """
[superlink]
default = "bench"
[superlink.bench]
address = "127.0.0.1:{port}"
root-certificates = "{authority}"
"""


def start(folder: Path, study: Study, port: int, relay: int, processes: Processes) -> Path:
    """Start the SuperLink on `port`, the SuperNodes through `relay`, and the run.

    `folder` holds study.yaml. Returns the file that gets a line per round.
    """
    keys, rounds = folder / "server", folder / "rounds.jsonl"
    make_server(keys, f"127.0.0.1:{port}", datetime.now(UTC))
    authority = str(keys / "ca.crt")
    superlink = [_program("flower-superlink"), "--host", "127.0.0.1", "--port", str(port)]
    superlink += ["--ssl-ca-certfile", authority, "--ssl-certfile", str(keys / "server.crt")]
    superlink += ["--ssl-keyfile", str(keys / "server.key"), "--enable-supernode-auth"]
    processes.start(SERVER, superlink, _environment(folder / "flower"))
    _write_app(folder, study, rounds)
    connection = _CONNECTION.format(port=port, authority=authority)
    _write(folder / "flower" / "config.toml", connection)
    for name in study.cohort:
        _make_key(folder / f"{name}.key")
        _flwr(folder, "supernode", "register", str(folder / f"{name}.key.pub"))
        supernode = [_program("flower-supernode"), "--superlink", f"127.0.0.1:{relay}"]
        supernode += ["--root-certificates", authority, "--port", str(free_port())]
        supernode += ["--auth-supernode-private-key", str(folder / f"{name}.key")]
        processes.start(name, supernode, _environment(folder / f"flower-{name}"))
    _flwr(folder, "run", str(folder / "app"))
    return rounds


def good(line: dict[str, int]) -> int:
    """Return the number of replies that counted, from a line of the file."""
    return line["good"]


def _write_app(folder: Path, study: Study, rounds: Path) -> None:
    project = _PYPROJECT.format(study=folder / "study.yaml", rounds=rounds)
    _write(folder / "app" / "pyproject.toml", project)
    shutil.copy(app.__file__, folder / "app" / "app.py")


def _make_key(path: Path) -> None:
    """Write an elliptic-curve key in OpenSSH's format, and its public key beside it."""
    key = make_node_key()
    private = form.Encoding.PEM, form.PrivateFormat.OpenSSH, form.NoEncryption()
    path.write_bytes(key.private_bytes(*private))
    public = key.public_key().public_bytes(form.Encoding.OpenSSH, form.PublicFormat.OpenSSH)
    path.with_suffix(".key.pub").write_bytes(public)


def _flwr(folder: Path, *arguments: str) -> None:
    """Run Flower's command, repeatedly until the SuperLink answers.

    Raises:
        RuntimeError: the command still fails after a minute.
    """
    environment = os.environ | _environment(folder / "flower")
    end = time.monotonic() + _START_SECONDS
    while True:
        done = subprocess.run(  # noqa: S603  the command is ours
            [_program("flwr"), *arguments],
            capture_output=True,
            text=True,
            check=False,
            env=environment,
        )
        if not done.returncode:
            return
        if time.monotonic() > end:
            raise RuntimeError(f"flwr {' '.join(arguments)}:\n{done.stdout}{done.stderr}")
        time.sleep(0.5)


def _environment(home: Path) -> dict[str, str]:
    """Return the environment for Flower's programs, which start each other by name (PATH)."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return SETTINGS | {"FLWR_HOME": str(home), "PATH": path}


def _program(name: str) -> str:
    return str(Path(sys.executable).parent / name)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
