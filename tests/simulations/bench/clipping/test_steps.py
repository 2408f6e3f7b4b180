"""The contestants of `hemofed bench clipping` clip alike; each answers from its own process."""

import warnings

import pytest
import torch

from simulations.bench.clipping import steps
from simulations.bench.clipping.contestants import CONTESTANTS, Case, Smooth


@pytest.mark.parametrize("case", [Case("head", 0, 12), Case("cnn", 16, 9)])
@pytest.mark.parametrize("name", [name for name in CONTESTANTS if "sgd" not in name])
def test_every_private_contestant_clips_to_the_same_sum(case: Case, name: str) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Full backward hook is firing")
        contestant = CONTESTANTS[name](*case.make())
        with Smooth():
            found = contestant.clipped_sum(rows=8)
        contestant.step()
    assert found is not None
    # Opacus adds 1e-6 to a norm before it divides.
    assert steps._error(found, steps._reference(case, rows=8)) < 1e-5


def test_a_step_of_sgd_is_the_same_in_chunks() -> None:
    case = Case("cnn", 16, 12)
    weights = []
    for name in ("sgd", "sgd, best chunk"):
        contestant = CONTESTANTS[name](*case.make())
        fresh, _, _ = case.make()
        for own, first in zip(contestant.parameters, fresh.parameters(), strict=True):
            own.data.copy_(first)
        contestant.step()
        weights.append(torch.cat([p.detach().flatten() for p in contestant.parameters]))
    torch.testing.assert_close(weights[0], weights[1])


def test_a_peer_measures_time_memory_and_error() -> None:
    case = Case("head", 0, 16)
    with steps._peer(case, "hemofed", steps.TUNED) as connection:
        assert steps._ask(connection, ("step", None))["seconds"] > 0
        assert steps._ask(connection, ("memory", None))["peak_mib"] >= 0
        found = steps._ask(connection, ("error", steps._reference(case, rows=8)))
        assert found["error"] < 1e-6
