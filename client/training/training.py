"""A round's local training: plain, or with differential privacy."""

import math
from itertools import islice

import torch
from torch import nn

from client.randomness import Entropy
from client.training import feature_centring
from client.training.augmentation import draw_views
from client.training.dp_sgd import private_mean, train_private
from client.training.inputs import Inputs, shuffled
from client.training.job import Job
from client.training.loss import loss_of
from client.training.optimizer import LocalOptimizer
from common.device import autocast
from common.errors import ModelError
from common.models import trainable


def train(job: Job, inputs: Inputs, entropy: Entropy) -> float | None:
    """Train `inputs.network` in place; return the mean loss without privacy, None with it.

    The first round of a study with `model.centre` finds the centre instead, and returns None. With
    privacy nothing but the network leaves this function, and the caller has paid for it.
    Without privacy, raises DataError when there is no training cell, and ModelError when the
    training diverged.
    """
    if job.finds_centre:
        plain = job.study.privacy.mode == "none"
        found = feature_centring.plain_mean(inputs) if plain else private_mean(job, inputs, entropy)
        feature_centring.centre_of(inputs.network).copy_(found)
        return None
    if job.study.privacy.mode == "none":
        return _train_plain(job, inputs)
    train_private(job, inputs, entropy)
    return None


def _train_plain(job: Job, inputs: Inputs) -> float:
    training, network = job.study.training, inputs.network
    parameters = list(trainable(network).values())
    optimizer = LocalOptimizer(parameters, training)
    loss = loss_of(job.study, inputs.device)
    generator = job.generator("augment")
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
        optimizer.pull_back()
        if training.gradient_clip is not None:
            nn.utils.clip_grad_norm_(parameters, training.gradient_clip)
        optimizer.step(_warmed_up(job, step))
        losses.append(value.detach())
    mean = float(torch.stack(losses).mean())
    if not math.isfinite(mean):
        raise ModelError(f"round {job.round}: the loss is {mean}; lower training.learning_rate")
    return mean


def _warmed_up(job: Job, step: int) -> float:
    """The learning rate of a step: it warms up each round, since the optimizer starts afresh."""
    return job.learning_rate * min(1.0, (step + 1) / (job.study.training.warmup_steps + 1))
