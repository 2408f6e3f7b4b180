"""Units made to be noticed: near-orthogonal gradients longer than the clipping norm.

The guarantee holds for any data and any model, so the audit picks those that give most away. A
linear head is trained; a canary is a long feature vector along one axis of a random orthonormal
basis, with a label that no other canary on its axis has. Its gradient (p - y) x^T is then clipped
to exactly the norm that the noise is scaled to, whatever the head has learnt, and it is orthogonal
to all others' but those few on its axis, where the cosine is -1 / (classes - 1). So the inner
product with what a step releases is 0 or 1 clipping norms, plus the noise: the Gaussian mechanism's
worst case. Pictures as canaries leak less: their gradients share most of their length. There are no
other units: what the canaries share with a crowd comes back at every step and blurs the view.
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
"""Canaries that share an axis, where there are labels enough to keep them apart."""
BLOCK = 64
LENGTH = 32.0
"""Of a canary's features, in clipping norms (at least 1): its gradient stays longer than the
clipping norm until the head knows its label by 97 %."""
DRIFT = 0.05
"""How far training moves a canary's logits in all, noise or signal: enough for the final model to
tell, too little to change the gradients."""
SITE = "audited"
CELLS_A_PATIENT = 3


@dataclass(frozen=True, eq=False)
class Canaries:
    """m units, and which of them are in the data set."""

    features: Tensor
    """(m, D) float32."""
    labels: Tensor
    """(m,) int64."""
    included: NDArray[np.bool_]
    """(m,) fair coins."""

    def __len__(self) -> int:
        return len(self.included)

    @cached_property
    def lengths(self) -> Tensor:
        """(m,) norms of the features with the bias's 1 beside them."""
        return (self.features.square().sum(1) + 1).sqrt()


def make_canaries(count: int, study: Study, rng: np.random.Generator) -> Canaries:
    """`count` canaries for the study's clipping norm, each included by a fair coin from `rng`."""
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
    """At least `dim` orthonormal rows: random rotations of `BLOCK` axes at a time, which takes
    milliseconds where a rotation of all of them takes seconds."""
    blocks = -(-dim // BLOCK)
    rotations = np.linalg.qr(rng.standard_normal((blocks, BLOCK, BLOCK)))[0]
    basis = np.zeros((blocks, BLOCK, blocks, BLOCK))
    basis[np.arange(blocks), :, np.arange(blocks)] = rotations
    return basis.reshape(blocks * BLOCK, blocks * BLOCK)


def site_with(canaries: Canaries, study: Study) -> Inputs:
    """A lab whose training cells are the included canaries, and a head that knows nothing yet.

    Where the unit is a patient, each canary is a patient with several equal cells.
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
    """The study with its privacy as it is, and what follows the noise set to show the most.

    Optimiser, learning rate and normaliser only treat what was released already: plain SGD, over so
    many declared units that the canaries' gradients keep their direction. What acts before the
    noise stays as it is, but that all rounds train: to find a centre is the same sum of other
    vectors.
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
    """A round's work of the audited lab."""
    return Job(study, SITE, study.cohort[SITE], round, noise_multiplier)
