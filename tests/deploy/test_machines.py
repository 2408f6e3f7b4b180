"""The command on machines of all kinds: real processes, started as such a machine starts them."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from client.consent.approvals import SignedApprovals
from client.home import SiteHome
from client.membership.enrolment import join, read_request
from client.site import open_site
from common.config.loading import dump
from common.errors import ConfigError, PrivacyError
from common.file_permissions import check_ours
from common.identity.keys import load_signing_key
from server.membership.provisioning import admit, make_kit, make_server
from simulations.demo.cli import _next_steps
from tests.client.lab import check, make_lab, study
from tests.simulations.small import simulation

NOW = datetime.now(UTC)
ROOT = Path(__file__).parents[2]
NOBODY = ("unshare", "--user", "--map-user=12345")
"""Starts a process in which it has a number that the system does not know."""


def types(*words: object, by: tuple[str, ...] = (), **variables: str | None) -> tuple[int, str]:
    """What a process of `hemofed` ends with and prints; None takes a variable away."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "40", **variables}
    done = subprocess.run(
        [*by, sys.executable, "-P", "-m", "hemofed", *map(str, words)],
        env={name: value for name, value in environment.items() if value is not None},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=ROOT,
    )
    return done.returncode, done.stdout.decode(errors="replace")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "small.yaml"
    file.write_text(dump(simulation()))
    return file


@pytest.mark.parametrize(("letters", "alphabet"), [(75, "ascii"), (76, "latin-1"), (200, "utf-8")])
def test_a_simulation_runs_below_a_long_tmpdir_in_a_terminal_of_any_alphabet(
    config: Path, tmp_path: Path, letters: int, alphabet: str
) -> None:
    """Workers have sockets there, whose paths may be short only; in a narrow terminal a note is
    cut with a sign that ASCII and Latin-1 do not have."""
    folder, out = Path("/tmp") / f"hemofed-{os.getpid()}-".ljust(letters - 5, "x"), tmp_path / "out"
    folder.mkdir()
    try:
        terminal = {"TMPDIR": str(folder), "PYTHONIOENCODING": alphabet}
        code, said = types("simulate", config, "--out", out, **terminal)
    finally:
        shutil.rmtree(folder)
    assert code == 0 and "report.html" in said.replace("\n", ""), said
    assert ("\N{HORIZONTAL ELLIPSIS}" in said) == (alphabet == "utf-8")
    assert (out / "report.html").exists()


@pytest.mark.skipif(
    not shutil.which("unshare") or subprocess.run([*NOBODY, "true"]).returncode != 0,
    reason="the system lets nobody make a user's namespace",
)
@pytest.mark.parametrize("backend", ["local", "ray"])
def test_a_user_without_name_and_home_needs_a_folder_for_caches(
    config: Path, tmp_path: Path, backend: str
) -> None:
    asks = ["simulate", config, "--out", tmp_path / "out", "--backend", backend]
    code, said = types(*asks, by=NOBODY, HOME=None, HEMOFED_CACHE=None)
    assert code == 2 and "Traceback" not in said
    assert "this user (12345) has no home folder" in said and "set HEMOFED_CACHE" in said
    code, said = types(*asks, by=NOBODY, HOME=None, HEMOFED_CACHE=str(tmp_path / "cache"))
    assert code == 0, said


def command_in(words: str) -> list[str]:
    """The command that a message has in backquotes, as a shell takes it."""
    (command,) = re.findall("`([^`]+)`", words)
    return shlex.split(command)


def test_commands_are_printed_as_a_shell_takes_them(tmp_path: Path) -> None:
    home, server = tmp_path / "the lab's home", tmp_path / "server"
    make_server(server, "127.0.0.1:9", NOW)
    lab = SiteHome(make_lab(home).parent)
    code, said = types("site", "init", home, "--name", "lab")
    assert code == 0 and command_in(said) == ["hemofed", "site", "request", str(home)]
    for name, read in (("identity", check_ours), ("identity/signing.key", load_signing_key)):
        (home / name).chmod(0o722)
        with pytest.raises(ConfigError) as refused:
            read(home / name)
        subprocess.run(command_in(str(refused.value)), check=True)
        read(home / name)
    admit(server, read_request(home), NOW)
    kit = make_kit(server, "lab")
    join(home, kit, kit.fingerprint)
    with pytest.raises(PrivacyError) as missing:
        check(SignedApprovals(lab), open_site(lab.site_file), study())
    assert command_in(str(missing.value)) == ["hemofed", "site", "approve", str(home), "lab-test"]


def test_the_commands_of_a_demonstration_are_printed_as_a_shell_takes_them() -> None:
    folder = Path("a demo's folder")
    *steps, models = _next_steps(folder, ["site-1"], "first").splitlines()
    commands = [shlex.split(step)[1:] for step in steps if step and not step.startswith("#")]
    assert commands == [
        ["server", "start", str(folder / "server")],
        ["site", "start", str(folder / "site-1")],
        ["site", "check", str(folder / "site-1")],
        ["server", "run", str(folder / "server"), str(folder / "study.yaml")],
        ["site", "approve", str(folder / "site-1"), "first"],
        ["server", "status", str(folder / "server")],
    ]
    found = str(folder / "server/studies/first-*/run/model.safetensors")
    assert shlex.split(models) == ["ls", found] and models.endswith("-*/run/model.safetensors")
