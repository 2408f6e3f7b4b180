"""Flower's SecAgg+ in one process: the whole protocol, and what is measured of it."""

import numpy as np
import pytest
from flwr.common import NDArrays, ndarray_to_bytes, parameters_to_ndarrays
from flwr.compat.common.recorddict_compat import arrayrecord_to_parameters
from flwr.server.workflow.constant import MAIN_PARAMS_RECORD

from simulations.bench.own_figures import Stopwatch
from simulations.bench.sums.secagg_plus import Clients, SecureRound, server, site


def _mean(clients: Clients, clock: Stopwatch) -> NDArrays:
    secure = SecureRound(clients)
    secure.run(clock)
    record = secure.context.state.array_records[MAIN_PARAMS_RECORD]
    return parameters_to_ndarrays(arrayrecord_to_parameters(record, keep_input=True))


def _results(sites: int) -> list[NDArrays]:
    rng = np.random.default_rng(sites)
    return [[rng.standard_normal(20, dtype=np.float32)] for _ in range(sites)]


@pytest.mark.parametrize("sites", [3, 6])
@pytest.mark.parametrize("away", [0, 1])
def test_all_clients_together_give_the_mean_of_those_who_are_there(sites: int, away: int) -> None:
    results, clock = _results(sites), Stopwatch()
    clients = Clients(results, away=frozenset({sites} if away else ()))
    (mean,) = _mean(clients, clock)
    there = [result[0] for result in results[: sites - away]]
    assert np.allclose(mean, np.mean(there, axis=0), atol=1e-3)
    assert clock.processor > 0 and clients.first.processor > 0
    assert clients.sent == len(ndarray_to_bytes(np.zeros(1, np.int64))) + len(
        ndarray_to_bytes(np.zeros(20, np.int64))
    )


def test_too_many_away_is_no_measurement() -> None:
    with pytest.raises(RuntimeError, match="Flower halted"):
        SecureRound(Clients(_results(4), away=frozenset({3, 4}))).run(Stopwatch())


@pytest.mark.parametrize("away", [0, 1])
def test_the_servers_part_is_told_for_vectors_of_the_size_asked_for(away: int) -> None:
    clock = Stopwatch()
    sent = server(2_000, 4, away)(clock)
    assert 2 * 4 * 2_000 < sent < 2 * 4 * 2_000 + 500 and clock.processor > 0


def test_a_sites_part_is_told_and_nothing_is_unmasked() -> None:
    clock = Stopwatch()
    sent = site(2_000, 4)(clock)
    assert 2 * 4 * 2_000 < sent < 2 * 4 * 2_000 + 500 and clock.processor > 0
