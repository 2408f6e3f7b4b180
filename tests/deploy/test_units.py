"""The files in deploy/ start commands that exist, without root, without capabilities."""

import configparser
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.deploy.command import app

DEPLOY = Path(__file__).parents[2] / "deploy"
WHO = ("server", "site")
CONTAINERS = (DEPLOY / "Containerfile").read_text()


def starts(*arguments: str) -> bool:
    return CliRunner().invoke(app, [*arguments, "--help"]).exit_code == 0


@pytest.mark.parametrize("who", WHO)
def test_a_unit_starts_the_service_and_gives_it_nothing_else(who: str) -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read(DEPLOY / f"hemofed-{who}.service")
    service = unit["Service"]
    _, *command = service["ExecStart"].split()
    assert starts(*command[:2])
    assert command[:2] == [who, "start"]
    assert service["User"] != "root"
    assert service["CapabilityBoundingSet"] == ""
    assert service["Restart"] == "always"
    for key in ("ProtectSystem", "NoNewPrivileges", "PrivateTmp", "ProtectHome"):
        assert service[key] in ("yes", "strict")


def test_a_sites_cache_is_in_its_home_where_the_unit_can_write() -> None:
    unit = (DEPLOY / "hemofed-site.service").read_text()
    home = re.search(r"^ExecStart=.* site start (\S+)$", unit, re.M)
    state = re.search(r"^StateDirectory=(\S+)$", unit, re.M)
    cache = re.search(r"^Environment=HEMOFED_CACHE=(\S+)$", unit, re.M)
    assert home and state and cache
    assert Path(cache[1]).is_relative_to(home[1])
    assert Path(home[1]).is_relative_to(f"/var/lib/{state[1]}")
    documented = (DEPLOY.parent / "docs" / "deployment.md").read_text()
    assert f"HEMOFED_CACHE={cache[1]}" in documented


@pytest.mark.parametrize("who", WHO)
def test_systemd_finds_no_fault_in_a_unit(who: str, tmp_path: Path) -> None:
    if not (analyze := shutil.which("systemd-analyze")):
        pytest.skip("systemd is not here")
    unit, name = tmp_path / f"hemofed-{who}.service", f"hemofed-{who}.service"
    text = (DEPLOY / name).read_text()
    # The program is not installed where the unit expects it; any other complaint is a fault.
    unit.write_text(text.replace("/opt/hemofed/.venv/bin/hemofed", sys.executable))
    found = subprocess.run([analyze, "verify", str(unit)], capture_output=True, text=True)
    assert (found.returncode, name in found.stderr) == (0, False), found.stderr


@pytest.mark.parametrize("who", WHO)
def test_a_container_runs_the_service_without_root(who: str) -> None:
    stages = dict(re.findall(r"^FROM \S+ AS (\w+)\n(.+?)(?=^FROM|\Z)", CONTAINERS, re.M | re.S))
    entry = re.search(r'CMD \["(\w+)", "(\w+)", "(.+)"\]', stages[who])
    assert entry is not None
    assert entry[1] == who and starts(entry[1], entry[2])
    assert f"FROM base AS {who}" in CONTAINERS
    assert re.search(r"^USER (?!0|root)", stages["base"], re.M)
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", stages["build"], re.M)
    root = DEPLOY.parent
    assert copied and all((root / name).exists() for line in copied for name in line.split())
