"""Canaries: units made to be noticed, with near-orthogonal gradients longer than the clipping norm.

The guarantee holds for any data and any model, so the audit picks those that reveal the most. It
trains a linear head. A canary is a long feature vector along one axis of a random orthonormal
basis, with a label that no other canary on its axis has. Its gradient (p - y) x^T is clipped to
exactly the norm that the noise is scaled to, whatever the head has learnt. It is orthogonal to the
gradients of all other canaries except the few on its axis, where the cosine is -1 / (classes - 1).
So its inner product with what a step releases is 0 or 1 clipping norms, plus the noise, which is
the worst case of the Gaussian mechanism. Pictures as canaries would leak less, because their
gradients have most of their length in common. There are no other units, because what the canaries
had in common with them would recur at every step and blur the view.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from client.data.site_cells import SiteCells
from client.training.inputs import Inputs
from client.training.job import Job
from common.config.study import Participant, Study, TrainingSpec

MOST_AN_AXIS = 4
"""The most canaries that share an axis, if there are enough labels to tell them apart."""
BLOCK = 64
"""The number of axes that are rotated together."""
LENGTH = 32.0
"""The length of a canary's features, in clipping norms (of at least 1). With it, the gradient stays
longer than the clipping norm until the head gives the canary's label 97 %."""
DRIFT = 0.05
"""How far training moves a canary's logits in total, by noise or by signal: enough to show in the
final model, but too little to change the gradients."""
SITE = "audited"
CELLS_A_PATIENT = 3


@dataclass(frozen=True, eq=False)
class Canaries:
    """m canaries with D features, and which of them are in the data set."""

    features: Tensor
    """(m, D) float32."""
    labels: Tensor
    """(m,) int64."""
    included: NDArray[np.bool_]
    """(m,) a fair coin each."""

    def __len__(self) -> int:
        return len(self.included)

    @cached_property
    def lengths(self) -> Tensor:
        """(m,) the norms of the features with a 1 appended for the bias."""
        return (self.features.square().sum(1) + 1).sqrt()


def make_canaries(count: int, study: Study, rng: np.random.Generator) -> Canaries:
    """Make `count` canaries for the study's clipping norm; a fair coin of `rng` includes each."""
    classes = len(study.cell_types)
    shared = min(MOST_AN_AXIS, max(1, classes // 4))
    basis = _basis(-(-count // shared), rng)
    dim = len(basis)
    axis, place = np.divmod(np.arange(count), shared)
    labels = (rng.integers(0, classes, dim)[axis] + place) % classes
    features = basis[axis] * LENGTH * max(1.0, study.privacy.max_grad_norm)
    included = rng.integers(0, 2, count).astype(bool)
    return Canaries(torch.from_numpy(features).float(), torch.from_numpy(labels), included)


def _basis(dim: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return at least `dim` orthonormal rows, by random rotations of `BLOCK` axes at a time.

    This takes milliseconds, and a rotation of all axes together would take seconds.
    """
    blocks = -(-dim // BLOCK)
    rotations = np.linalg.qr(rng.standard_normal((blocks, BLOCK, BLOCK)))[0]
    basis = np.zeros((blocks, BLOCK, blocks, BLOCK))
    basis[np.arange(blocks), :, np.arange(blocks)] = rotations
    return basis.reshape(blocks * BLOCK, blocks * BLOCK)


def site_with(canaries: Canaries, study: Study) -> Inputs:
    """Return a lab whose training cells are the included canaries, with an untrained head.

    If the study's unit is a patient, each canary is a patient with several equal cells.
    """
    network = nn.Linear(canaries.features.shape[1], len(study.cell_types))
    nn.init.zeros_(network.weight)
    nn.init.zeros_(network.bias)
    copies = CELLS_A_PATIENT if study.privacy.unit == "patient" else 1
    unit = np.repeat(np.arange(len(canaries)), copies)
    cells = SiteCells(
        parts=(),
        labels=canaries.labels.numpy()[unit],
        splits=np.where(canaries.included[unit], "train", "test"),
        units=unit,
        held_out=False,
    )
    return Inputs(cells, network, torch.device("cpu"), canaries.features[torch.from_numpy(unit)])


def audited(study: Study, canaries: Canaries, noise_multiplier: float) -> Study:
    """Return the study with its privacy as it is and what follows the noise set to reveal the most.

    Optimizer, learning rate and normaliser only process what is already released. They become plain
    SGD and so many declared units that the canaries' gradients keep their direction. What acts
    before the noise stays as it is, except that every round trains: a round that finds a centre
    releases the same kind of sum, of other vectors.
    """
    privacy = study.privacy
    steps = study.rounds * privacy.local_steps
    reach = max(noise_multiplier * steps**0.5, privacy.sample_rate * steps)
    logit = float(canaries.features[0].norm()) * privacy.max_grad_norm * reach
    training = TrainingSpec(
        learning_rate=1.0,
        rare_class_power=study.training.rare_class_power,
        class_prior=study.training.class_prior,
        augment=False,
    )
    member = Participant(units=math.ceil(logit / (DRIFT * privacy.sample_rate)))
    model = study.model.model_copy(update={"centre": False})
    return study.model_copy(update={"training": training, "cohort": {SITE: member}, "model": model})


def job(study: Study, round: int, noise_multiplier: float) -> Job:
    """Return the audited lab's work in a round."""
    return Job(study, SITE, study.cohort[SITE], round, noise_multiplier)
