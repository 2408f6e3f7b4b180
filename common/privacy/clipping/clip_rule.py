"""How a unit's gradient is scaled so that its L2 norm stays within the bound."""

from dataclasses import dataclass
from typing import Literal

import torch

from common.errors import PrivacyError

Clipping = Literal["flat", "automatic"]

MARGIN = 1 - 2.0**-16
"""Factors are this much smaller than the formula's: float32 rounding, in the norm and in the scaled
gradient, must not lift a unit's contribution above the bound, even where the values are such that
every rounding falls the same way. Costs 1.5e-5 of the gradient's length."""

SMALLEST_BOUND = 1e-3
"""The least bound C: what float32 may lose to underflow in a gradient of 10^9 values, 2^-46, is
nothing beside it, in the norm as in the scaled gradient."""

LARGEST_NORM = 2.0**62
"""A unit with a larger norm counts as zero: squares beyond 2^128 overflow in float32, and the
factor of a larger norm would be rounded coarsely there, or to 0, or up."""


@dataclass(frozen=True)
class ClipRule:
    """A factor for each unit from its gradient's norm.

    flat: min(1, C / norm) (Abadi et al. 2016, arXiv 1607.00133, algorithm 1).
    automatic: C / (norm + gamma) (Bu et al. 2022, arXiv 2206.07136, eq. 5 "AUTO-S", with R = C).

    Formal guarantee: factor * norm <= C for every norm >= 0; a norm that is not finite, or beyond
    `LARGEST_NORM`, gets the factor 0. Adding or removing one unit changes the sum by at most C in
    L2.

    Raises:
        PrivacyError: the bound or gamma is not a positive finite number, the bound is below
            `SMALLEST_BOUND`, or the rule is unknown.
    """

    max_grad_norm: float
    kind: Clipping = "flat"
    gamma: float = 0.01

    def __post_init__(self) -> None:
        for name, value in (("max_grad_norm", self.max_grad_norm), ("gamma", self.gamma)):
            if not 0 < value < float("inf"):
                raise PrivacyError(f"Expected {name}={value} to be positive and finite.")
        if self.max_grad_norm < SMALLEST_BOUND:
            raise PrivacyError(
                f"Expected max_grad_norm={self.max_grad_norm} >= {SMALLEST_BOUND}: float32 cannot "
                "keep a smaller bound. Scale the loss up instead."
            )
        if self.kind not in ("flat", "automatic"):
            raise PrivacyError(f"Unknown clipping={self.kind!r}; choose 'flat' or 'automatic'.")

    def factors(self, norms: torch.Tensor) -> torch.Tensor:
        """Factors, float64 (units,), for float64 norms (units,)."""
        if self.kind == "flat":
            divisors = norms.clamp(min=self.max_grad_norm)
        else:
            divisors = norms + self.gamma
        factors = MARGIN * self.max_grad_norm / divisors
        return factors.masked_fill_(~self.usable(norms), 0.0)

    @staticmethod
    def usable(norms: torch.Tensor) -> torch.Tensor:
        """bool (units,): whether a unit with this norm counts; a NaN does not."""
        return norms <= LARGEST_NORM
