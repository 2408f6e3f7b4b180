"""Flower's Ray engine runs the same apps to the same bits."""

import subprocess
import sys
from pathlib import Path

from common.config.loading import dump
from simulations.run import federate
from tests.simulations.small import PRIVATE, Silent, numbers, simulation


def test_ray_gives_the_bits_of_this_process(tmp_path: Path) -> None:
    config = simulation(study={"rounds": 2, "privacy": PRIVATE})
    federate(config, tmp_path / "local", Silent())
    path = tmp_path / "config.yaml"
    path.write_text(dump(config))
    command = [sys.executable, "-m", "hemofed", "simulate", str(path), "--backend", "ray"]
    done = subprocess.run(
        [*command, "--workers", "1", "--out", str(tmp_path / "ray")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert numbers(tmp_path / "local") == numbers(tmp_path / "ray")
