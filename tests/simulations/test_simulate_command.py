"""`hemofed simulate`: its options and what it prints."""

import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from common.errors import ConfigError
from common.yaml_files import dump
from hemofed import app
from tests.simulations.small import simulation


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(dump(simulation()))
    return path


def simulate(*words: str) -> str:
    done = CliRunner().invoke(app, ["simulate", *words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_the_command_to_run_what_was_prepared_can_be_pasted(tmp_path: Path, config: Path) -> None:
    out = tmp_path / f"a folder whose path is longer than a line {'x' * 80}"
    *_, command = simulate(str(config), "--prepare-only", "--out", str(out)).splitlines()
    sites, *words, given = shlex.split(command)
    assert sites == f"HEMOFED_SITES={out / 'sites'}"
    assert words == ["flwr", "run", ".", "--run-config"]
    assert given == f'study="{out / "study.yaml"}" out="{out}"'


def test_a_bad_setting_is_named_not_the_file(config: Path) -> None:
    with pytest.raises(ConfigError, match=r"--set study.rounds=0: Input should be .*\(value: 0\)"):
        simulate(str(config), "--set", "study.rounds=0")
