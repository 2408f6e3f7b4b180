"""One federation for the files of this folder, whose study goes on through all their tests.

What they do to it they mend; the last file's last test alone leaves a site shut out.
"""

from collections.abc import Iterator

import pytest

from server.studies.store import Stored
from tests.deploy.endless.rounds import ALTERED, ROUND_DEADLINE
from tests.deploy.federation import Federation, running
from tests.simulations.small import simulation


@pytest.fixture(scope="package")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    study = {
        "rounds": 5000,
        "round": {"min_sites": 2, "deadline_seconds": ROUND_DEADLINE},
        "evaluation": {"every": 5000},
    }
    with running(tmp_path_factory.mktemp("endless"), simulation(study=study), ALTERED) as one:
        yield one


@pytest.fixture(scope="package")
def stored(federation: Federation) -> Stored:
    return federation.run()
