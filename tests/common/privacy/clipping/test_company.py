"""What one unit adds is the same, to the last bit, in whichever company it is.

The models are those that a hostile server would send
(`simulations.bench.clipping.hostile_models`): their logits are made of rounding errors, so that
another last bit turns a whole gradient.
"""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from common.privacy.clipping import EngineName, clipped_gradient_sum
from common.privacy.noise import SLACK
from simulations.bench.clipping.company import neighbours
from simulations.bench.clipping.hostile_models import ENGINES, Attack

from .conftest import cross_entropy


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("attack", "units"),
    [
        (("head", 64, 18), 3),
        (("head", 320, 18), 3),
        (("head", 1280, 12), 1),
        (("head", 64, 18), 33),
        (("cnn", 16, 18), 3),
        (("cancelling", 16, 18), 3),
        (("cancelling", 16, 18), 33),
        (("cnn", 64, 18), 35),
    ],
)
def test_one_unit_more_moves_the_sum_by_no_more_than_the_bound(
    attack: tuple[str, int, int], units: int, engine: EngineName, threads: int
) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        drawn = Attack(*attack, engine)
        moved, others = neighbours(drawn, weight=1e8, units=units, seed=units)
    finally:
        torch.set_num_threads(before)
    assert moved <= 1 + SLACK
    assert others < 1e-5


@pytest.mark.parametrize("engine", ENGINES)
@settings(max_examples=15)
@given(units=st.integers(1, 40), most=st.integers(1, 8), seed=st.integers(0, 999))
def test_units_of_several_cells_keep_to_themselves(
    engine: EngineName, units: int, most: int, seed: int
) -> None:
    attack = Attack("head", 64, 18, engine, most)
    moved, others = neighbours(attack, weight=1e8, units=units, seed=seed)
    assert moved <= 1 + SLACK
    assert others < 1e-5


@pytest.mark.parametrize("engine", ENGINES)
@settings(max_examples=15)
@example(own=2, company=[2], first=False, wild=True, chunk=None, seed=0)
@given(
    own=st.integers(1, 9),
    company=st.lists(st.integers(1, 9), max_size=12),
    first=st.booleans(),
    wild=st.booleans(),
    chunk=st.sampled_from([None, 4, 8]),
    seed=st.integers(0, 999),
)
def test_no_bit_of_a_share_depends_on_the_others(
    engine: EngineName,
    own: int,
    company: list[int],
    first: bool,
    wild: bool,
    chunk: int | None,
    seed: int,
) -> None:
    """The others' losses count for nothing, so the sum is the one unit's share; some of the others
    may be huge, or not finite."""
    generator = torch.Generator().manual_seed(seed)
    attack = Attack("head", 64, 18, engine)
    model = attack.model(100.0, generator)
    mine, theirs = attack.rows(own, generator), attack.rows(sum(company), generator)
    if wild and len(theirs) > 1:
        theirs[0], theirs[1] = torch.nan, 1e30
    names = torch.arange(1, len(company) + 1).repeat_interleave(torch.tensor(company).long())

    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(logits, targets.clamp_min(0)) * (targets >= 0)

    def share(rows: Tensor, units: Tensor, targets: Tensor) -> Tensor:
        return clipped_gradient_sum(
            model, loss, rows, targets, max_grad_norm=1.0, units=units, engine=engine, chunk=chunk
        ).gradient

    name = 0 if first else len(company) + 1
    alone = share(mine, torch.full((own,), name), torch.ones(own, dtype=torch.int64))
    together = share(
        torch.cat([theirs, mine]),
        torch.cat([names, torch.full((own,), name)]),
        torch.cat([torch.full((len(theirs),), -1), torch.ones(own, dtype=torch.int64)]),
    )
    assert torch.equal(alone, together)
    assert bool(alone.any())


def test_rows_are_made_a_chunk_at_a_time() -> None:
    """So that memory does not grow with the batch, and a row is always made among as many."""
    asked: list[int] = []
    rows = torch.randn(50, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    targets = torch.arange(50) % 3
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 3))

    def made(positions: Tensor) -> Tensor:
        asked.append(len(positions))
        return rows[positions]

    found, expected = (
        clipped_gradient_sum(
            model, cross_entropy, given_, targets, max_grad_norm=1.0, chunk=8
        ).gradient
        for given_ in (made, rows)
    )
    assert torch.equal(found, expected)
    assert set(asked) == {8}
    assert sum(asked) == 56
