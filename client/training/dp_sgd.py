"""DP-SGD at a site: the clipped sum of a step's units, the noise on it, and the steps made of both.

What one unit adds to the sum is bounded in `clipped_sum` (`common.privacy.clipping`); `privatise`
(`common.privacy.noise`) rounds the sum to integers and adds the noise. Sampling rate, clipping norm
and normaliser are public constants of the study.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from client.randomness import Entropy
from client.training import feature_centring
from client.training.augmentation import VIEW_DRAWS
from client.training.inputs import Drawn, Inputs, poisson
from client.training.job import Job
from client.training.loss import Loss, loss_of
from client.training.optimizer import LocalOptimizer
from common.config.study import Study
from common.models import trainable
from common.privacy.clipping import Clipping, EngineName, clipped_gradient_sum
from common.privacy.noise import privatise
from common.privacy.noise_source import NoiseSource

_WITHIN = 1 - 2.0**-9
"""A site's own weights stay below this fraction of the largest weight that its policy accepts. An
update is a difference, and may be rounded to float16: sites must not refuse the next model for
that."""


@dataclass(frozen=True)
class Summand:
    """What each unit adds to a step's sum: its clipped gradient of the loss of a network."""

    network: nn.Module
    loss: Loss
    clipping: Clipping = "flat"
    engine: EngineName = "vmap"

    @property
    def size(self) -> int:
        """P, the number of values in the sum."""
        return sum(value.numel() for value in trainable(self.network).values())


def summand(job: Job, inputs: Inputs) -> Summand:
    """What each unit adds in the job's round: its gradient, or in the first its features."""
    return features(job.study, inputs)[1] if job.finds_centre else gradients(job.study, inputs)


def train_private(job: Job, inputs: Inputs, entropy: Entropy) -> None:
    """Train in place by DP-SGD (Abadi et al. 2016, algorithm 1), with public sampling rate and
    normaliser. The caller has paid for the round's steps."""
    network = inputs.network
    parameters = list(trainable(network).values())
    optimizer = LocalOptimizer(parameters, job.study.training)
    of = gradients(job.study, inputs)
    for gradient in _noisy_means(job, inputs, of, entropy):
        _set_gradients(parameters, gradient)
        # After the noise and from the round's model alone: it looks at no cell.
        optimizer.pull_back()
        optimizer.step(job.learning_rate)
        _bound(parameters, job.max_weight)


@torch.no_grad()
def _bound(parameters: Sequence[Tensor], most: float) -> None:
    """Cut every weight to just within `most`. This is post-processing of noisy sums: it is free."""
    for value in parameters:
        value.clamp_(-_WITHIN * most, _WITHIN * most)


def private_mean(job: Job, inputs: Inputs, entropy: Entropy) -> Tensor:
    """The noisy mean (D,) of the site's standardised features, from all steps of the round."""
    offset, of = features(job.study, inputs)
    found = offset.mean(torch.stack(list(_noisy_means(job, inputs, of, entropy))))
    _bound([found], job.max_weight)
    return found


def gradients(study: Study, inputs: Inputs) -> Summand:
    """What a training step adds up."""
    privacy = study.privacy
    loss = loss_of(study, inputs.device)
    return Summand(inputs.network, loss, privacy.clipping, privacy.engine)


def features(study: Study, inputs: Inputs) -> tuple[feature_centring.Offset, Summand]:
    """The network whose gradients find the centre, and what a step that finds it adds up."""
    dim = len(feature_centring.centre_of(inputs.network))
    offset = feature_centring.Offset(dim, study.privacy.max_grad_norm).to(inputs.device)
    return offset, Summand(offset, feature_centring.half_square)


def _noisy_means(job: Job, inputs: Inputs, of: Summand, entropy: Entropy) -> Iterator[Tensor]:
    """For each step of the round, its noisy sum (P,) over the public, expected number of units."""
    normaliser = job.normaliser
    sampling, noise = sources(job, entropy)
    for _ in range(job.study.privacy.local_steps):
        noisy = _noisy_sum(job, inputs, of, sampling, noise)
        yield noisy.to(inputs.device) / normaliser


def _noisy_sum(
    job: Job, inputs: Inputs, of: Summand, sampling: NoiseSource, noise: NoiseSource
) -> Tensor:
    """One step's clipped gradient sum with its noise, (P,); for an empty batch, noise alone."""
    return privatise(
        sampled_sum(job, inputs, of, sampling),
        max_grad_norm=job.study.privacy.max_grad_norm,
        noise_multiplier=job.noise_multiplier,
        source=noise,
    )


def sources(job: Job, entropy: Entropy) -> tuple[NoiseSource, NoiseSource]:
    """Where a round's samples come from, and its noise."""
    purpose = (job.study.digest, job.site, job.round)
    return entropy.source(*purpose, "sampling"), entropy.source(*purpose, "noise")


def sampled_sum(job: Job, inputs: Inputs, of: Summand, sampling: NoiseSource) -> Tensor:
    """A Poisson sample's clipped sum (P,), before the noise: it never leaves the site."""
    privacy = job.study.privacy
    rows = inputs.cells.rows("train")
    units = inputs.cells.units[rows] if privacy.unit == "patient" else rows
    drawn = poisson(rows, units, privacy.sample_rate, privacy.max_cells_per_patient, sampling)
    draws = None
    if job.study.training.augment:
        draws = _uniform(sampling, len(drawn.rows) * privacy.augmentations, VIEW_DRAWS)
    return clipped_sum(job, inputs, of, drawn, draws)


def clipped_sum(
    job: Job, inputs: Inputs, of: Summand, drawn: Drawn, draws: Tensor | None
) -> Tensor:
    """The sum (P,) of what the drawn units add, before the noise: it never leaves the site.

    draws: (cells drawn * augmentations, VIEW_DRAWS), with those of a cell's views next to each
    other; None: without augmentation.
    """
    privacy = job.study.privacy
    positions = np.repeat(drawn.rows, privacy.augmentations)

    def rows_at(at: Tensor) -> Tensor:
        return inputs.batch(positions[at.numpy()], None if draws is None else draws[at])

    return clipped_gradient_sum(
        of.network,
        of.loss,
        rows_at,
        inputs.targets(positions),
        max_grad_norm=privacy.max_grad_norm,
        clipping=of.clipping,
        engine=of.engine,
        units=torch.from_numpy(np.repeat(drawn.units, privacy.augmentations)),
        views=privacy.augmentations,
        expected=job.expected_rows,
    ).gradient


def _uniform(source: NoiseSource, rows: int, columns: int) -> Tensor:
    """float32 (rows, columns) in [0, 1); each row has words of its own of the secret stream."""
    words = source.words(rows * columns).reshape(rows, columns)
    return torch.from_numpy((words >> np.uint64(40)).astype(np.float32) / 2**24)


def _set_gradients(parameters: list[nn.Parameter], flat: Tensor) -> None:
    start = 0
    for value in parameters:
        value.grad = flat[start : start + value.numel()].view_as(value).clone()
        start += value.numel()
