"""Everything is killed in turn; the model is the simulation's all the same, bit for bit."""

import os
import signal
from pathlib import Path

from tests.deploy.federation import has_begun, records, running
from tests.simulations.small import numbers, simulation


def test_no_crash_changes_a_bit_of_the_model(tmp_path: Path) -> None:
    config = simulation(study={"rounds": 14, "round": {"min_sites": 3, "deadline_seconds": 60}})
    with running(tmp_path, config) as federation:
        stored = federation.run()
        first, second, _ = federation.sites

        def begun(number: int) -> bool:
            return has_begun(stored, number)

        def in_hand(site: str, number: int) -> bool:
            return begun(number) and federation.sites[site].inflight.exists()

        federation.wait_in(stored, lambda: in_hand(first, 3), "a message to kill the runner with")
        os.kill(federation.pids(first)["runner"], signal.SIGKILL)

        federation.wait_in(stored, lambda: in_hand(second, 5), "a message to kill the node with")
        os.kill(federation.processes[second].pid, signal.SIGKILL)
        federation.processes[second].wait()
        federation.start(second)

        federation.wait_in(stored, lambda: begun(7), "round 7")
        os.kill(federation.pids("server")["rounds"], signal.SIGKILL)

        federation.wait_in(stored, lambda: begun(9), "round 9")
        os.kill(federation.pids("server")["superlink"], signal.SIGKILL)

        federation.wait_in(stored, lambda: begun(11), "round 11")
        os.kill(federation.processes["server"].pid, signal.SIGKILL)
        federation.processes["server"].wait()
        federation.start("server")

        federation.wait_in(stored, lambda: stored.said()["state"] == "completed", "the end")
        assert [record["round"] for record in records(stored)] == list(range(1, 15))
    assert numbers(stored.out) == federation.simulate()
