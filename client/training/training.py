"""A round's local training: plain, or with differential privacy."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from client.randomness import Entropy
from client.training import feature_centring
from client.training.augmentation import VIEW_DRAWS, draw_views
from client.training.inputs import Drawn, Inputs, poisson, seed_of, shuffled
from client.training.optimizer import LocalOptimizer
from common.config.study import Member, Study
from common.device import autocast
from common.errors import DataError, ModelError
from common.models import trainable
from common.privacy.clipping import Clipping, EngineName, clipped_gradient_sum
from common.privacy.noise import privatise
from common.privacy.noise_source import NoiseSource

Loss = Callable[[Tensor, Tensor], Tensor]

_WITHIN = 1 - 2.0**-9
"""Of the largest weight that is taken: how far a site's own weights go. An update is a difference,
rounded to float16 maybe: the next model must not be refused for that."""

_LEAST_WEIGHT = 1e-4
"""Of a class in the loss; a study cannot scale a class's gradients out of float32's range."""


@dataclass(frozen=True)
class Job:
    """One round's work at one site."""

    study: Study
    site: str
    member: Member
    round: int
    noise_multiplier: float = 0.0
    """Of the Gaussian, relative to max_grad_norm; used only when the study has privacy."""
    max_weight: float = math.inf
    """No parameter's absolute value exceeds it, nor comes as near as an update's rounding, under
    privacy: what a step takes beyond is cut."""

    @property
    def normaliser(self) -> float:
        """Expected units of a step's batch: public constants both.

        Raises DataError: the study declares none.
        """
        if self.member.units <= 0:
            raise DataError(
                f"site {self.site}: the study declares {self.member.units} units for it; a private "
                "study needs a public number of units a site"
            )
        return self.study.privacy.sample_rate * self.member.units

    def check(self) -> None:
        """Raise DataError for what would stop a private round that was paid for."""
        if self.study.privacy.mode != "none":
            _ = self.normaliser

    @property
    def expected_rows(self) -> float:
        """Rows of a step's batch in the mean, were every patient to have its most cells."""
        privacy = self.study.privacy
        return self.normaliser * privacy.cells_of_a_unit * privacy.augmentations

    @property
    def learning_rate(self) -> float:
        """The round's learning rate: constant, or a half cosine over the rounds."""
        training = self.study.training
        if training.schedule == "constant":
            return training.learning_rate
        done = (self.round - 1) / self.study.rounds
        return training.learning_rate * 0.5 * (1 + math.cos(math.pi * done))

    @property
    def finds_centre(self) -> bool:
        """Whether the round finds the features' centre in place of training."""
        return self.study.model.centre and self.round == feature_centring.ROUND

    def seed(self, purpose: str) -> int:
        return seed_of(self.study.seed, self.site, self.round, purpose)


@dataclass(frozen=True)
class Summand:
    """What a unit adds to a step's sum: its clipped gradient of a network's loss."""

    network: nn.Module
    loss: Loss
    clipping: Clipping = "flat"
    engine: EngineName = "vmap"


def train(job: Job, inputs: Inputs, entropy: Entropy) -> float | None:
    """Train `inputs.network` in place; the mean loss without privacy, None with it.

    The first round of a study with `model.centre` finds that instead, and has no loss. With privacy
    nothing but the network leaves this function, and the caller has paid for it.
    Raises DataError: no training cell. ModelError: the training diverged.
    """
    if job.finds_centre:
        plain = job.study.privacy.mode == "none"
        found = (
            feature_centring.plain_mean(inputs) if plain else _private_mean(job, inputs, entropy)
        )
        feature_centring.centre_of(inputs.network).copy_(found)
        return None
    if job.study.privacy.mode == "none":
        return _train_plain(job, inputs)
    _train_private(job, inputs, entropy)
    return None


def _train_plain(job: Job, inputs: Inputs) -> float:
    training, network = job.study.training, inputs.network
    parameters = list(trainable(network).values())
    start = [value.detach().clone() for value in parameters] if training.proximal_mu else []
    optimizer = LocalOptimizer(parameters, training)
    loss = _loss(job.study, inputs.device)
    generator = _generator(job, "augment")
    rows = inputs.cells.rows("train")
    losses = []
    seed = job.seed("shuffle")
    batches = shuffled(rows, training.batch_size, training.local_epochs, seed)
    for step, positions in enumerate(islice(batches, training.max_local_steps)):
        optimizer.clear()
        draws = None
        if training.augment:
            draws = draw_views(len(positions), generator)
        batch = inputs.batch(positions, draws)
        with autocast(inputs.device, inputs.precision):
            logits = network(batch)
        value = loss(logits.float(), inputs.targets(positions)).mean()
        value.backward()  # type: ignore[no-untyped-call]
        _pull_back(parameters, start, training.proximal_mu)
        if training.gradient_clip is not None:
            nn.utils.clip_grad_norm_(parameters, training.gradient_clip)
        optimizer.step(_warmed_up(job, step))
        losses.append(value.detach())
    mean = float(torch.stack(losses).mean())
    if not math.isfinite(mean):
        raise ModelError(f"round {job.round}: the loss is {mean}; lower training.learning_rate")
    return mean


def _warmed_up(job: Job, step: int) -> float:
    """The learning rate of a step: the optimizer starts afresh each round."""
    return job.learning_rate * min(1.0, (step + 1) / (job.study.training.warmup_steps + 1))


def _pull_back(parameters: list[nn.Parameter], start: list[Tensor], mu: float) -> None:
    """FedProx's proximal term mu/2 |w - w0|^2, as its gradient (Li et al. 2020, eq. 2)."""
    for value, origin in zip(parameters, start, strict=False):
        if value.grad is not None:
            value.grad.add_(value.detach() - origin, alpha=mu)


def _train_private(job: Job, inputs: Inputs, entropy: Entropy) -> None:
    """DP-SGD (Abadi et al. 2016, algorithm 1) with public sampling rate and normaliser."""
    network = inputs.network
    parameters = list(trainable(network).values())
    mu = job.study.training.proximal_mu
    start = [value.detach().clone() for value in parameters] if mu else []
    optimizer = LocalOptimizer(parameters, job.study.training)
    of = gradients(job.study, inputs)
    for gradient in _noisy_means(job, inputs, of, entropy):
        _set_gradients(parameters, gradient)
        # After the noise and from the round's model alone: it looks at no cell.
        _pull_back(parameters, start, mu)
        optimizer.step(job.learning_rate)
        _bound(parameters, job.max_weight)


@torch.no_grad()
def _bound(parameters: Sequence[Tensor], most: float) -> None:
    """Cut every weight to what is within `most`: what a step made of noisy sums costs no more."""
    for value in parameters:
        value.clamp_(-_WITHIN * most, _WITHIN * most)


def _private_mean(job: Job, inputs: Inputs, entropy: Entropy) -> Tensor:
    """The mean (D,) of the site's standardised features, from all of the round's steps."""
    offset, of = features(job.study, inputs)
    found = offset.mean(torch.stack(list(_noisy_means(job, inputs, of, entropy))))
    _bound([found], job.max_weight)
    return found


def gradients(study: Study, inputs: Inputs) -> Summand:
    """What a training step adds up."""
    privacy = study.privacy
    loss = _loss(study, inputs.device)
    return Summand(inputs.network, loss, privacy.clipping, privacy.engine)


def features(study: Study, inputs: Inputs) -> tuple[feature_centring.Offset, Summand]:
    """What a step that finds the centre adds up, and what it is a gradient of."""
    dim = len(feature_centring.centre_of(inputs.network))
    offset = feature_centring.Offset(dim, study.privacy.max_grad_norm).to(inputs.device)
    return offset, Summand(offset, feature_centring.half_square)


def _noisy_means(job: Job, inputs: Inputs, of: Summand, entropy: Entropy) -> Iterator[Tensor]:
    """The noisy sum (P,) of each of the round's steps over the public, expected number of units."""
    normaliser = job.normaliser
    purpose = (job.study.digest, job.site, job.round)
    sampling, noise = entropy.source(*purpose, "sampling"), entropy.source(*purpose, "noise")
    for _ in range(job.study.privacy.local_steps):
        noisy = _noisy_sum(job, inputs, of, sampling, noise)
        yield noisy.to(inputs.device) / normaliser


def _noisy_sum(
    job: Job, inputs: Inputs, of: Summand, sampling: NoiseSource, noise: NoiseSource
) -> Tensor:
    """One step's clipped gradient sum with its noise, (P,). An empty batch sends noise."""
    privacy = job.study.privacy
    rows = inputs.cells.rows("train")
    units = inputs.cells.units[rows] if privacy.unit == "patient" else rows
    drawn = poisson(rows, units, privacy.sample_rate, privacy.max_cells_per_patient, sampling)
    draws = None
    if job.study.training.augment:
        draws = _uniform(sampling, len(drawn.rows) * privacy.augmentations, VIEW_DRAWS)
    return privatise(
        clipped_sum(job, inputs, of, drawn, draws),
        max_grad_norm=privacy.max_grad_norm,
        noise_multiplier=job.noise_multiplier,
        source=noise,
    )


def clipped_sum(
    job: Job, inputs: Inputs, of: Summand, drawn: Drawn, draws: Tensor | None
) -> Tensor:
    """The sum (P,) of what the drawn units add, before the noise: it never leaves the site.

    draws: (cells drawn * augmentations, VIEW_DRAWS), those of a cell's views in a row; None: as the
    cells are.
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
    """float32 (rows, columns) in [0, 1), every row by draws of its own from the secret stream."""
    words = source.words(rows * columns).reshape(rows, columns)
    return torch.from_numpy((words >> np.uint64(40)).astype(np.float32) / 2**24)


def _set_gradients(parameters: list[nn.Parameter], flat: Tensor) -> None:
    start = 0
    for value in parameters:
        value.grad = flat[start : start + value.numel()].view_as(value).clone()
        start += value.numel()


def _loss(study: Study, device: torch.device) -> Loss:
    """Cross-entropy a row, weighted by the class's public rarity.

    The weights are at most 1 and known to all, and they are applied before clipping: a cell's
    clipped gradient is bounded by max_grad_norm as before.
    """
    weights = _class_weights(study).to(device)

    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(logits, targets, weight=weights, reduction="none")

    return loss


def _class_weights(study: Study) -> Tensor:
    power, prior = study.training.rare_class_power, study.training.class_prior
    if power == 0:
        return torch.ones(len(study.cell_types))
    shares = torch.tensor([prior[name] for name in study.cell_types])
    weights = shares.pow(-power)
    return (weights / weights.max()).clamp_min(_LEAST_WEIGHT)


def _generator(job: Job, purpose: str) -> torch.Generator:
    return torch.Generator().manual_seed(job.seed(purpose))
