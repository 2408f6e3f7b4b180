"""Put slips into the code that protects patients, one at a time, and see whether a test fails.

`make mutants`, or `python tests/mutants/run.py [--jobs N] [WORD ...]`: the modules whose path has
one of the words; --jobs 0 runs nothing and prints what there is. Results are kept in .mutants/:
what was seen is not tried again as long as its function stays as it is; what was not seen, and is
not known to be harmless, is tried again at the next start. docs/testing.md tells how the results
are to be read.
"""

import argparse
import compileall
import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path
from py_compile import PycInvalidationMode

from slips import Slip, slips
from trial import trial, warm_up

ROOT = Path(__file__).resolve().parents[2]
KEPT = ROOT / ".mutants"
MODULES = Path(__file__).with_name("modules.toml")
HARMLESS = Path(__file__).with_name("harmless.toml")


def main() -> int:
    """0: at least 95 % of each module's slips were seen; 1: not; 2: the tests fail as it is,
    or there is another run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("words", nargs="*")
    asked = parser.parse_args()
    modules = {
        module: tests
        for module, tests in tomllib.loads(MODULES.read_text())["modules"].items()
        if not asked.words or any(word in module for word in asked.words)
    }
    if asked.jobs and not _alone():
        print("another run of this, or a part of one that was killed, is in the same tree")
        return 2
    warm_up()
    workers = [_start(modules, job, asked.jobs) for job in range(asked.jobs)]
    ended = [os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]) for worker in workers]
    if any(ended):
        return 2
    return 0 if all([_report(module) for module in modules]) else 1


def _alone() -> bool:
    """Whether no other run has the copies; from then on this one has, as long as a worker lives."""
    KEPT.mkdir(exist_ok=True)
    try:
        # Never closed: the workers have it too.
        fcntl.flock(os.open(KEPT, os.O_RDONLY), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _start(modules: dict[str, list[str]], job: int, jobs: int) -> int:
    """The process that tries every `jobs`-th slip."""
    worker = os.fork()
    if worker == 0:
        status = 2
        try:
            copy = _copy(job)
            status = 0 if all([_try(copy, *one, job, jobs) for one in modules.items()]) else 2
        finally:
            sys.stdout.flush()
            os._exit(status)
    return worker


def _copy(job: int) -> Path:
    """A copy of the tree as it is, what is not committed included."""
    copy = KEPT / f"copy-{job}"
    shutil.rmtree(copy, ignore_errors=True)
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, check=True).stdout.decode()
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name)
    # Once for all trials; by the hash, since a slip may be of the same size and second.
    by_hash = PycInvalidationMode.CHECKED_HASH
    compileall.compile_dir(copy, quiet=1, invalidation_mode=by_hash)
    return copy


def _try(copy: Path, module: str, tests: Sequence[str], job: int, jobs: int) -> bool:
    """Try the worker's part of a module's slips. False: its tests fail without any."""
    place = copy / module
    text = place.read_text(encoding="utf-8")
    last, known = _outcomes(module), _harmless(module)
    done = {key for key, outcome in last.items() if outcome != "passed"}
    left = [slip for slip in list(slips(text))[job::jobs] if slip.key not in done]
    left = [slip for slip in left if slip.key not in last or slip.change not in known]
    if not left:
        return True
    began = time.monotonic()
    if trial(copy, tests, 600) != "passed":
        print(f"{module}: its tests fail as it is:\n{(copy / 'output').read_text()[-3000:]}")
        return False
    patience = 15 + 4 * (time.monotonic() - began)
    for slip in left:
        place.write_text(slip.text, encoding="utf-8")
        _keep(module, slip, trial(copy, tests, patience))
    place.write_text(text, encoding="utf-8")
    return True


def _file(module: str) -> Path:
    return KEPT / (module.replace("/", ".") + ".jsonl")


def _outcomes(module: str) -> dict[str, str]:
    """Key -> what came of it when it was tried last."""
    file = _file(module)
    lines = file.read_text().splitlines() if file.exists() else []
    return {one["key"]: one["outcome"] for one in map(json.loads, lines)}


def _keep(module: str, slip: Slip, outcome: str) -> None:
    line = json.dumps({"key": slip.key, "outcome": outcome}) + "\n"
    # One write of a short line: two workers' lines do not mix.
    with _file(module).open("a", buffering=1) as file:
        file.write(line)


def _report(module: str) -> bool:
    """Print the module's count and what no test saw; whether all were tried, and 95 % seen.

    What HARMLESS has is no fault: it is counted apart and not printed.
    """
    last = _outcomes(module)
    every = list(slips((ROOT / module).read_text(encoding="utf-8")))
    unseen = [slip for slip in every if last.get(slip.key) == "passed"]
    tried = sum(slip.key in last for slip in every)
    known = _harmless(module)
    faults = [slip for slip in unseen if slip.change not in known]
    print(
        f"{module}: {tried - len(unseen)} of {tried} seen, {len(unseen) - len(faults)} harmless, "
        f"{len(every) - tried} not tried"
    )
    for slip in faults:
        print(f"  line {slip.line} {slip.operator}\n    " + slip.diff.replace("\n", "\n    "))
    return tried == len(every) and len(faults) <= 0.05 * len(every)


def _harmless(module: str) -> set[str]:
    """The changes of a module that are known to do no harm, as `Slip.change` has them."""
    known = tomllib.loads(HARMLESS.read_text(encoding="utf-8"))["slip"]
    mine = [one for one in known if one["module"] == module]
    return {f"-{one['taken']}" + (f"\n+{one['put']}" if one["put"] else "") for one in mine}


if __name__ == "__main__":
    sys.exit(main())
