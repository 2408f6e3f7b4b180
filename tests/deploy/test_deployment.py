"""Real processes on loopback, TLS and node authentication on."""

from pathlib import Path

from tests.deploy.federation import running
from tests.simulations.small import numbers


def test_the_deployed_model_is_the_simulated_one_bit_for_bit(tmp_path: Path) -> None:
    with running(tmp_path) as federation:
        stored = federation.run()
        federation.wait_for(stored, "completed")
    assert numbers(stored.out) == numbers(federation.simulated)
