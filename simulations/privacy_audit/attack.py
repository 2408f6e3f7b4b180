"""Three adversaries that watch the real training (`client.training.training.train`) and score
canaries.

| view   | sees                                              | score of a canary                  |
|--------|---------------------------------------------------|------------------------------------|
| step   | every noisy gradient sum, or what `masked_view` has | see scores.py                    |
| round  | the update that leaves the lab each round         | inner product with its gradient    |
| final  | the model after the last round                    | minus its loss                     |

All of them know the canaries, the model and the study, but not the coins, the samples or the noise.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from client.randomness import Entropy
from client.training.inputs import Inputs
from client.training.optimizer import LocalOptimizer
from client.training.training import train
from common.config.study import Study
from common.privacy.clipping import ClipRule
from simulations.privacy_audit import masked_view
from simulations.privacy_audit.canaries import SITE, Canaries, audited, job, site_with
from simulations.privacy_audit.scores import scores

Scores = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Sight:
    """The scores of the m canaries in each view; a larger score means more likely included."""

    step: Scores
    """(m,) of the adversary who sees every step."""
    round: Scores
    """(m,) of the adversary who sees every round's update."""
    final: Scores
    """(m,) of the adversary who sees the final model."""


def attack(study: Study, canaries: Canaries, noise_multiplier: float, entropy: Entropy) -> Sight:
    """Train all rounds of the study on the included canaries, and score every canary.

    Args:
        study: the study to attack.
        canaries: m canaries and their coins.
        noise_multiplier: the one that the site tells training to use.
        entropy: what training draws from.
    """
    inputs = site_with(canaries, study)
    altered = audited(study, canaries, noise_multiplier)
    eye = _Eye(altered, canaries, inputs, noise_multiplier)
    by_round = np.zeros(len(canaries))
    expected = study.privacy.sample_rate * len(canaries)
    with _watching(eye), masked_view.seen(study, expected):
        for number in range(1, study.rounds + 1):
            probe = _Probe.at(inputs.network, canaries)
            before = _flat(inputs.network)
            train(job(altered, number, noise_multiplier), inputs, entropy)
            by_round += probe.along(before - _flat(inputs.network))
    with torch.no_grad():
        logits = inputs.network(canaries.features)
        final = -F.cross_entropy(logits, canaries.labels, reduction="none")
    return Sight(eye.scores(), by_round, final.double().numpy())


@dataclass(frozen=True, eq=False)
class _Probe:
    """The canaries' gradients at one state of a linear head, which are never computed in full.

    The gradient of the cross-entropy is e (x, 1)^T with e = p - y, for weight and bias.
    """

    errors: Tensor
    """(m, classes) e."""
    features: Tensor
    """(m, D) x."""
    norms: Tensor
    """(m,) the gradients' L2 norms."""

    @classmethod
    def at(cls, network: nn.Module, canaries: Canaries) -> "_Probe":
        with torch.no_grad():
            errors = network(canaries.features).softmax(1)
            errors[torch.arange(len(canaries)), canaries.labels] -= 1
        return cls(errors, canaries.features, errors.norm(dim=1) * canaries.lengths)

    def along(self, flat: Tensor) -> Scores:
        """Return (m,) the inner products of each gradient's direction with `flat`.

        flat: (P,) the weight's values, then the bias's.
        """
        classes = self.errors.shape[1]
        weight, bias = flat[:-classes].view(classes, -1), flat[-classes:]
        products = (self.errors * (self.features @ weight.T + bias)).sum(1)
        return (products / self.norms.clamp(min=1e-12)).double().numpy()


class _Eye:
    """Observes each step's released noisy mean, before the optimizer applies it."""

    def __init__(
        self, study: Study, canaries: Canaries, inputs: Inputs, noise_multiplier: float
    ) -> None:
        privacy = study.privacy
        self._seen: list[Scores] = []
        self._sizes: list[Scores] = []
        self._canaries, self._network = canaries, inputs.network
        self._rate, self._noise = privacy.sample_rate, noise_multiplier
        self._bound = privacy.max_grad_norm
        self._rule = ClipRule(privacy.max_grad_norm, privacy.clipping)
        self._normaliser = privacy.sample_rate * study.cohort[SITE].units

    def look(self) -> None:
        """Note what the step that is about to be applied tells about each canary."""
        released = [p.grad.flatten() for p in self._network.parameters() if p.grad is not None]
        probe = _Probe.at(self._network, self._canaries)
        self._seen.append(probe.along(torch.cat(released)) * self._normaliser / self._bound)
        norms = probe.norms.double()
        self._sizes.append((self._rule.factors(norms) * norms / self._bound).numpy())

    def scores(self) -> Scores:
        """Return the canaries' scores (m,) from all steps."""
        return scores(np.stack(self._seen), np.stack(self._sizes), self._rate, self._noise)


@contextmanager
def _watching(eye: _Eye) -> Iterator[None]:
    """Let `eye` see every step before the optimizer applies it, unnoticed by training."""
    step = LocalOptimizer.step

    def seen(optimizer: LocalOptimizer, learning_rate: float) -> None:
        eye.look()
        step(optimizer, learning_rate)

    with patch.object(LocalOptimizer, "step", seen):
        yield


def _flat(network: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in network.parameters()])
