"""Membership inference on pictures (Carlini et al. 2022, arXiv 2112.03570), as a second view.

Shadow models, each trained by `client.training.training.train` on a random half of rendered cells,
show how confident a model is on a cell that it was trained on and on one that it was not. Each
model in turn is the target, and the others are its shadows (online LiRA with one variance for all
cells, as section VI-C advises for few shadows). The network is `cnn`, trained as a whole under the
study's noise, clipping, sampling and steps. The same attack on the same cells without privacy shows
how strong the attack is.

The result is no bound, since a better attack may exist; the canaries give the bounds.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from client.data.site_cells import SiteCells
from client.data.store import CellCache
from client.randomness import Entropy
from client.training.inputs import Inputs
from client.training.job import Job
from client.training.training import train
from common.cell_types import CODES
from common.config.study import ModelSpec, Participant, Study, TrainingSpec
from common.models import build
from common.privacy.accounting import study_event
from simulations.synthetic import STYLES, Patient, render_cell

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

SIDE = 32
WIDTH = 8
FALSE_ALARMS = 0.01
CLIPPED_RATE = 0.5
"""The learning rate of the private shadows, which learn as much as their noise permits."""
PLAIN_EPOCHS = 40
"""The epochs of the shadows without privacy, enough to memorise their cells."""
_RESAMPLES = 400


@dataclass(frozen=True, kw_only=True)
class Size:
    """The size of the attack."""

    cells: int
    """How many cells are rendered."""
    models: int
    """How many models of each kind are trained."""


FULL, QUICK = Size(cells=200, models=16), Size(cells=100, models=8)


@dataclass(frozen=True, kw_only=True)
class Inference:
    """What the attack achieves, with 95 % intervals from resampling the cells."""

    area: float
    """The area under the ROC curve; chance is 0.5."""
    area_interval: tuple[float, float]
    true_positives: float
    """The true positive rate at a false positive rate of `FALSE_ALARMS`, which is also chance."""
    true_positives_interval: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class MembershipAttack:
    """The attack on training with the study's privacy and without any."""

    cells: int
    """How many cells were rendered."""
    models: int
    """How many models of each kind were trained."""
    private: Inference
    """The attack on training with the study's privacy."""
    plain: Inference
    """The attack on training without privacy."""


def infer(
    study: Study, entropy: Callable[[int], Entropy], rng: np.random.Generator, size: Size = FULL
) -> MembershipAttack:
    """Train models with and without the study's privacy, and attack each of them.

    Args:
        study: the study to attack.
        entropy: n -> what the n-th training draws from.
        rng: decides the cells, their members and the resamples.
        size: the numbers of cells and models.

    Raises:
        PrivacyError: the study's privacy mode is "none".
    """
    cells = _rendered(study, size.cells, rng)
    noise = study_event(study.privacy, study.rounds).noise_multiplier
    member = rng.integers(0, 2, (size.models, size.cells)).astype(bool)
    found = []
    for number, altered in enumerate((_private(study, size.cells), _plain(study, size.cells))):
        confidences = np.stack(
            [
                _confidences(altered, cells, ins, noise, entropy(number * size.models + model))
                for model, ins in enumerate(member)
            ]
        )
        found.append(roc(likelihood_ratios(confidences, member), member, rng))
    return MembershipAttack(cells=size.cells, models=size.models, private=found[0], plain=found[1])


def likelihood_ratios(confidences: Floats, member: Bools) -> Floats:
    """Return the LiRA scores (models, N) of N cells.

    A model's own values do not enter the means that it is scored by. A cell that none or all of its
    shadows were trained on scores 0. There is one variance for all cells in training, and one for
    all cells not in training.

    Args:
        confidences: (models, N) log-odds of the cells' true classes.
        member: (models, N) whether the model was trained on the cell.
    """
    spread = {
        side: _mean_variance(confidences, member if side else ~member) for side in (True, False)
    }
    scores = np.zeros_like(confidences)
    for target in range(len(confidences)):
        others = np.arange(len(confidences)) != target
        ins, outs = member[others], ~member[others]
        known = ins.any(0) & outs.any(0)
        level = {
            side: (confidences[others] * mask).sum(0) / np.maximum(mask.sum(0), 1)
            for side, mask in ((True, ins), (False, outs))
        }
        score = _log_density(confidences[target], level[True], spread[True])
        score -= _log_density(confidences[target], level[False], spread[False])
        scores[target] = np.where(known, score, 0.0)
    return scores


def roc(scores: Floats, member: Bools, rng: np.random.Generator) -> Inference:
    """Return area and true positive rate, with intervals by a bootstrap over the N cells.

    Args:
        scores: (models, N); larger means more likely a member.
        member: (models, N) whether the model was trained on the cell.
        rng: decides the resamples.
    """
    area, rate = area_under(scores, member), rate_at(scores, member, FALSE_ALARMS)
    draws = []
    for _ in range(_RESAMPLES):
        chosen = rng.integers(0, scores.shape[1], scores.shape[1])
        again, truth = scores[:, chosen], member[:, chosen]
        draws.append((area_under(again, truth), rate_at(again, truth, FALSE_ALARMS)))
    low, high = np.percentile(draws, [2.5, 97.5], axis=0)
    return Inference(
        area=area,
        area_interval=(float(low[0]), float(high[0])),
        true_positives=rate,
        true_positives_interval=(float(low[1]), float(high[1])),
    )


def area_under(scores: Floats, member: Bools) -> float:
    """Return the probability that a member scores above a non-member; ties count half.

    This is the statistic of Mann and Whitney.

    >>> area_under(np.array([3.0, 1.0, 2.0, 0.0]), np.array([True, True, False, False]))
    0.75
    """
    ins, outs = scores[member], np.sort(scores[~member])
    below = np.searchsorted(outs, ins, "left") + np.searchsorted(outs, ins, "right")
    return float(below.mean() / 2 / len(outs))


def rate_at(scores: Floats, member: Bools, false_alarms: float) -> float:
    """Return the largest share of members above a threshold that few non-members exceed.

    At most the share `false_alarms` of the non-members is above the threshold.

    >>> rate_at(np.array([3.0, 1.0, 2.0, 0.0]), np.array([True, True, False, False]), 0.01)
    0.5
    """
    outs = np.sort(scores[~member])[::-1]
    threshold = outs[min(int(false_alarms * len(outs)), len(outs) - 1)]
    return float((scores[member] > threshold).mean())


def _mean_variance(confidences: Floats, mask: Bools) -> float:
    count = np.maximum(mask.sum(0), 1)
    level = (confidences * mask).sum(0) / count
    variance = ((confidences - level) ** 2 * mask).sum() / max(mask.sum() - len(count), 1)
    return float(max(variance, 1e-12))


def _log_density(values: Floats, mean: Floats, variance: float) -> Floats:
    density: Floats = -((values - mean) ** 2) / (2 * variance) - np.log(variance) / 2
    return density


def _rendered(study: Study, count: int, rng: np.random.Generator) -> CellCache:
    """Render pictures of the study's cell types in the styles of the known labs, in memory.

    Each picture is of another patient.
    """
    styles = list(STYLES.values())
    names = rng.choice(study.cell_types, count)
    images = np.stack(
        [
            render_cell(str(name), styles[i % len(styles)], Patient.random(rng), rng, SIDE)
            for i, name in enumerate(names)
        ]
    )
    nobody = np.full(count, "")
    return CellCache(
        folder=Path("rendered"),
        meta={"side": SIDE, "count": count},
        labels=np.array([CODES[str(name)] for name in names], dtype=np.int64),
        patients=nobody,
        splits=nobody,
        sources=nobody,
        fingerprint="rendered",
        _store=images,
    )


def _private(study: Study, cells: int) -> Study:
    training = TrainingSpec(learning_rate=CLIPPED_RATE, augment=False)
    return _altered(study, training, cells, study.privacy.mode)


def _plain(study: Study, cells: int) -> Study:
    training = TrainingSpec(
        optimizer="adam", learning_rate=3e-3, local_epochs=PLAIN_EPOCHS, augment=False
    )
    return _altered(study, training, cells, "none").model_copy(update={"rounds": 1})


def _altered(study: Study, training: TrainingSpec, cells: int, mode: str) -> Study:
    privacy = study.privacy.model_copy(update={"mode": mode, "augmentations": 1})
    return study.model_copy(
        update={
            "image_side": SIDE,
            "model": ModelSpec(name="cnn", width=WIDTH),
            "training": training,
            "privacy": privacy,
            "cohort": {"shadow": Participant(units=cells // 2)},
        }
    )


def _confidences(
    study: Study, cache: CellCache, ins: Bools, noise: float, entropy: Entropy
) -> Floats:
    """Train a model on the cells in `ins`; return the log-odds (N,) of all cells' true types."""
    code = {CODES[name]: number for number, name in enumerate(study.cell_types)}
    cells = SiteCells(
        parts=(cache,),
        labels=np.array([code[int(label)] for label in cache.labels]),
        splits=np.where(ins, "train", "test"),
        units=np.arange(len(cache)),
        held_out=False,
    )
    model = build(study.model, len(study.cell_types), SIDE, study.seed)
    inputs = Inputs(cells, model, torch.device("cpu"))
    for number in range(1, study.rounds + 1):
        train(Job(study, "shadow", study.cohort["shadow"], number, noise), inputs, entropy)
    everyone = np.arange(len(cache))
    with torch.no_grad():
        logs = F.log_softmax(model(inputs.batch(everyone)).double(), 1)
    own = logs[torch.arange(len(cache)), inputs.targets(everyone)].numpy()
    return np.asarray(own - np.log(np.maximum(-np.expm1(own), 1e-12)))
