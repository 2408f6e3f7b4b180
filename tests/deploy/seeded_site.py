"""A site that releases what it would in a simulation of the same seed, bit for bit."""

from pathlib import Path

from client.service import worker
from common.process_hardening import python
from tests.deploy.command import main
from tests.simulations.small import SEED

_RUNNER = Path(__file__).with_name("seeded_runner.py")


def _seeded(*arguments: str) -> list[str]:
    """The command of a runner, `-m client.service.worker SITE.yaml FD`, as the seeded one's."""
    return python(str(_RUNNER), *arguments[2:], str(SEED))


if __name__ == "__main__":
    worker.python = _seeded  # type: ignore[attr-defined]
    main()
