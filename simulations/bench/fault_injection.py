"""Breaks private training without the accountant's knowledge, to see whether the audit notices it.

Each fault is a context in which `client.training.dp_sgd` uses a broken part. Only the benchmark and
the tests use faults; no setting of a study, a site or a server does.
"""

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest.mock import patch

import torch

from client.training import dp_sgd
from common.privacy.noise_source import NoiseSource
from simulations.privacy_audit import masked_view

Part = Callable[..., Any]


@contextmanager
def noise_times(factor: float) -> Iterator[None]:
    """Use noise of `factor` times the multiplier, or none if it is 0."""

    def weak(true: Part, total: torch.Tensor, *, noise_multiplier: float, **rest: Any) -> Any:
        if factor == 0:
            return total.float()
        return true(total, noise_multiplier=factor * noise_multiplier, **rest)

    with _broken("privatise", weak):
        yield


@contextmanager
def no_noise_after(steps: int) -> Iterator[None]:
    """Use noise only in the first `steps` steps, as if a restart forgot it."""
    done = itertools.count()

    def forgetful(true: Part, total: torch.Tensor, **rest: Any) -> Any:
        return true(total, **rest) if next(done) < steps else total.float()

    with _broken("privatise", forgetful):
        yield


@contextmanager
def repeated_noise() -> Iterator[None]:
    """Use the same noise at every step."""

    def same(true: Part, total: torch.Tensor, *, source: NoiseSource, **rest: Any) -> Any:
        return true(total, source=NoiseSource.seeded(b"always the same"), **rest)

    with _broken("privatise", same):
        yield


@contextmanager
def clipping_times(factor: float) -> Iterator[None]:
    """Clip units to `factor` times the bound that the noise is scaled to."""

    def loose(true: Part, *batch: Any, max_grad_norm: float, **rest: Any) -> Any:
        return true(*batch, max_grad_norm=factor * max_grad_norm, **rest)

    with _broken("clipped_gradient_sum", loose):
        yield


@contextmanager
def cells_as_units() -> Iterator[None]:
    """Clip each cell of a patient by itself."""

    def by_cell(true: Part, *batch: Any, units: torch.Tensor, **rest: Any) -> Any:
        return true(*batch, units=torch.arange(len(units)), **rest)

    with _broken("clipped_gradient_sum", by_cell):
        yield


@contextmanager
def rate_times(factor: float) -> Iterator[None]:
    """Sample units `factor` times as often, at most with probability 1."""

    def often(true: Part, rows: Any, units: Any, rate: float, *rest: Any) -> Any:
        return true(rows, units, min(1.0, factor * rate), *rest)

    with _broken("poisson", often):
        yield


@contextmanager
def shares_missing(count: int) -> Iterator[None]:
    """In mode distributed: `count` honest labs forget their share of the noise."""
    with patch.object(masked_view, "in_view", lambda shares: max(shares - count, 1)):
        yield


@contextmanager
def shares_too_small(more: int) -> Iterator[None]:
    """In mode distributed: each share is sized as if `more` further labs added one."""
    sized = masked_view.sized_for
    with (
        patch.object(masked_view, "sized_for", lambda study: sized(study) + more),
        patch.object(masked_view, "in_view", lambda shares: shares - more),
    ):
        yield


@contextmanager
def masks_repeated() -> Iterator[None]:
    """In mode distributed: the lab's masks are known from another sum, so its own share is all."""
    with patch.object(masked_view, "in_view", lambda _: 1):
        yield


@contextmanager
def _broken(name: str, fault: Callable[..., Any]) -> Iterator[None]:
    """Replace `name` in DP-SGD by `fault`, whose first argument is the true part."""
    with patch.object(dp_sgd, name, partial(fault, vars(dp_sgd)[name])):
        yield
