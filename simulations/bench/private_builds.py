"""`hemofed bench private`'s study by this build and by an older one, in turn.

    git worktree add --detach DIR 9080026
    python -P -m simulations.bench.private_builds DIR [--rounds N] [--repetitions N]

DIR has the older code, from build 9080026 on. Each build writes the sites in its own forms and runs
them by its own code, on one worker in a fresh process; the study is the settings that both know.
"""

import argparse
import os
import subprocess
import tempfile
from functools import partial
from pathlib import Path

import yaml

from common.files import write_text
from common.process_hardening import python
from simulations.bench.harness import Measure, in_turn, report
from simulations.bench.private import measure, private_study
from simulations.bench.rounds import IMAGES

_SITES = """
import sys
from pathlib import Path
from types import SimpleNamespace
from simulations.bench.rounds import write_sites
plan = Path(sys.argv[1])
units = SimpleNamespace(units=int(sys.argv[2]))
write_sites(plan, SimpleNamespace(cohort=dict.fromkeys(sys.argv[3:], units)))
"""

_LEDGERS = """
from client.ledger import Ledger
from client.ledger_binding import data_fingerprint
from client.site import open_site
for site in map(open_site, plan.glob("sites/*/site.yaml")):
    Ledger.create(site.ledger, data_fingerprint(site)).close()
"""
"""What the contestant did not do for itself yet, in builds whose client had no rooms."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("build", type=Path)
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--repetitions", type=int, default=1)
    arguments = parser.parse_args()
    builds = {"this build": Path(__file__).parents[2], "older build": arguments.build.absolute()}
    with tempfile.TemporaryDirectory() as folder:
        contestants: dict[str, Measure] = {}
        for name, build in builds.items():
            plan = Path(folder) / name.replace(" ", "-")
            _write(plan, build, arguments.rounds)
            contestants[name] = partial(
                measure, plan, ["local", "--workers", "1"], _environment(build)
            )
        outcomes = in_turn(contestants, arguments.repetitions, warmup=0)
    report(f"{arguments.rounds} private rounds", outcomes, "this build", None)


def _write(plan: Path, build: Path, rounds: int) -> None:
    study = private_study(rounds)
    plan.mkdir()
    write_text(
        plan / "study.yaml", yaml.safe_dump(study.model_dump(mode="json", exclude_unset=True))
    )
    lines = _SITES + (_LEDGERS if (build / "client" / "ledger.py").exists() else "")
    command = python("-c", lines, str(plan), str(IMAGES), *study.cohort)
    subprocess.run(command, check=True, env=_environment(build))  # noqa: S603  the code is ours


def _environment(build: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(build)}


if __name__ == "__main__":
    main()
