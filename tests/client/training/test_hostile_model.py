"""What a lab refuses of a model and a study before it pays, and what it keeps from growing."""

from pathlib import Path

import numpy as np
import pytest
import torch

from client.app import app
from client.data.site_cells import SiteCells
from client.ledger.ledger import Ledger
from client.policy.policy import Policy
from client.site import open_site
from client.training.evaluation import BATCH, predict
from client.training.inputs import Inputs
from client.training.job import Job
from client.training.training import train
from client.training.workspace import workspace
from common.config.study import Number, Participant, Study
from common.models.parameter_vector import flatten, load
from common.wire.messages import read_refusal
from common.wire.vector_codec import decode, encode
from simulations.bench.clipping.company import counted
from simulations.bench.clipping.hostile_models import EVALUATED, Attack
from simulations.engine.seeded import SeededEntropy
from tests.client.lab import OPEN, PRIVACY, context, first_model, make_lab, message, study


def debits(site: Path) -> int:
    with Ledger.read(open_site(site).ledger) as ledger:
        return len(ledger.rows("debit"))


@pytest.mark.parametrize("kind", ["train", "evaluate"])
@pytest.mark.parametrize(("largest", "refused"), [(100.0, False), (100.1, True), (-1e8, True)])
def test_a_model_with_larger_weights_than_the_policys_is_refused_unpaid(
    tmp_path: Path, kind: str, largest: float, refused: bool
) -> None:
    site = make_lab(tmp_path, OPEN.model_copy(update={"metrics": "noised"}))
    asked = message(study(), kind)
    values = first_model(study())
    values[3] = largest
    asked.content.array_records["model"]["values"] = encode(values)
    assert (read_refusal(app(asked, context(site))) is not None) == refused
    assert debits(site) == (0 if refused else 1)
    if refused:
        assert "the policy's max_weight is 100" in (tmp_path / "site.log").read_text()


def test_no_local_step_leaves_weights_beyond_the_policys(tmp_path: Path) -> None:
    """Else a learning rate would do in the second step what a message cannot."""
    site = open_site(make_lab(tmp_path))
    wild = study(training={"learning_rate": 100})
    inputs = workspace(site, wild).inputs
    job = Job(wild, "lab", Participant(units=20), 1, noise_multiplier=1.0, max_weight=2.0)
    train(job, inputs, SeededEntropy(1))
    largest = max(float(value.detach().abs().max()) for value in inputs.network.parameters())
    assert largest == pytest.approx(2.0, rel=2e-3)


@pytest.mark.parametrize("number", ["float32", "float16"])
def test_an_update_that_was_cut_leads_to_a_model_that_is_taken(
    tmp_path: Path, number: Number
) -> None:
    """Whatever its rounding on the way to the server, and that of the model on the way back."""
    site, most = open_site(make_lab(tmp_path)), 0.37
    wild = study(training={"learning_rate": 100})
    bench = workspace(site, wild)
    size = bench.layout.size
    before = np.random.default_rng(1).uniform(-most, most, size).astype(np.float32)
    load(bench.parameters, before)
    job = Job(wild, "lab", Participant(units=20), 1, noise_multiplier=1.0, max_weight=most)
    train(job, bench.inputs, SeededEntropy(1))
    change = decode(encode(flatten(bench.parameters) - before, number), size, number)
    assert np.abs(decode(encode(before + change, number), size, number)).max() <= most


FAINT = study(
    model={"name": "cnn", "width": 32}, privacy=PRIVACY | {"epsilon": 5e-3, "delta": 1e-6}
)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (study(cohort={"lab": Participant(units=0)}), "declares 0 units"),
        (FAINT, "grid steps, and at most 1.07e+09 can be drawn exactly"),
    ],
)
def test_what_cannot_be_done_is_refused_before_it_is_paid(
    tmp_path: Path, asked: Study, said: str
) -> None:
    site = make_lab(tmp_path)
    assert read_refusal(app(message(asked), context(site)))
    assert said in (tmp_path / "site.log").read_text()
    assert debits(site) == 0


@pytest.mark.parametrize("attack", EVALUATED)
@pytest.mark.parametrize("cells", [1, 3, 15, 16, 31, 32, 36])
def test_one_cell_moves_an_evaluations_counts_by_one(attack: Attack, cells: int) -> None:
    """Classes told by rounding errors are those of a cell, not of a batch."""
    for seed in range(4):
        moved, others = counted(attack, 1e8, cells, seed)
        assert (moved, others) == (1.0, 0.0)


def test_a_cell_has_the_same_probabilities_in_any_batch() -> None:
    generator = torch.Generator().manual_seed(3)
    model, rows = Attack("head", 320, 18).model(100.0, generator), torch.randn(70, 320)
    everyone = np.arange(70)
    cells = SiteCells((), everyone, np.full(70, "test"), everyone, held_out=False)
    inputs = Inputs(cells, model, torch.device("cpu"), features=rows)
    whole = predict(inputs, everyone)
    for count in (1, 2, 3, BATCH - 1, BATCH, BATCH + 1, 70):
        assert np.array_equal(predict(inputs, everyone[-count:]), whole[-count:])


def test_the_policys_bound_is_100_unless_it_says_otherwise() -> None:
    plain = Policy(lifetime_epsilon=1, study_epsilon=1, delta=1e-5)
    assert plain.max_weight == 100
    assert isinstance(study(), Study)
