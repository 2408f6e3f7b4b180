"""Everything is killed in turn; the model is the simulation's all the same, bit for bit."""

import json
import os
import signal
import time
from pathlib import Path

from server.studies import Stored
from tests.deploy.federation import Federation, running, wait_until
from tests.simulations.small import numbers, simulation


def rounds(stored: Stored) -> int:
    log = stored.out / "rounds.jsonl"
    return len(log.read_text().splitlines()) if log.exists() else 0


def resume_if_short_of_sites(stored: Stored) -> None:
    """What the operator does when a round had no quorum: a site that dies with a message in its
    hands may miss it, and the round is then asked again on the operator's word."""
    said = stored.said()
    if said["state"] == "failed":
        assert "min_sites" in json.dumps(said), said
        stored.want("run")


def after(federation: Federation, stored: Stored, count: int) -> None:
    def there() -> bool:
        resume_if_short_of_sites(stored)
        return rounds(stored) >= count

    wait_until(there, f"round {count} is over\n{federation.logs()}")


def kill(pid: int) -> None:
    """In the middle of the next round, which lasts longer than this wait."""
    time.sleep(0.6)
    os.kill(pid, signal.SIGKILL)


def part(federation: Federation, name: str) -> int:
    content = json.loads((federation.server / "service.json").read_text())
    return int(content["parts"][name]["pid"])


def test_no_crash_changes_a_bit_of_the_model(tmp_path: Path) -> None:
    config = simulation(study={"rounds": 14, "round": {"min_sites": 3, "deadline_seconds": 25}})
    with running(tmp_path, config) as federation:
        stored = federation.run()
        first, second, _ = federation.sites

        after(federation, stored, 2)
        kill(json.loads(federation.sites[first].status.read_text())["runner"])

        after(federation, stored, 4)
        kill(federation.processes[second].pid)
        federation.processes[second].wait()
        federation.start(second)

        after(federation, stored, 6)
        kill(part(federation, "rounds"))

        after(federation, stored, 8)
        kill(part(federation, "superlink"))

        after(federation, stored, 10)
        kill(federation.processes["server"].pid)
        federation.processes["server"].wait()
        federation.start("server")

        def completed() -> bool:
            resume_if_short_of_sites(stored)
            return bool(stored.said()["state"] == "completed")

        wait_until(completed, f"the study ends\n{federation.logs()}")
        assert [json.loads(line)["round"] for line in _log(stored)] == list(range(1, 15))
    assert numbers(stored.out) == numbers(federation.simulated)


def _log(stored: Stored) -> list[str]:
    return (stored.out / "rounds.jsonl").read_text().splitlines()
