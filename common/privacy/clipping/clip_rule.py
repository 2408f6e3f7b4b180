"""How a unit's gradient is scaled so that its L2 norm stays within the bound."""

from dataclasses import dataclass
from typing import Literal

import torch

from common.errors import PrivacyError

Clipping = Literal["flat", "automatic"]

MARGIN = 1 - 2.0**-16
"""Every factor is the formula's times this: float32 rounding, in the norm and in the scaled
gradient, must not lift a unit's contribution above the bound, even where the values are such that
every rounding falls the same way. It costs 1.5e-5 of the gradient's length."""

SMALLEST_BOUND = 1e-3
"""The least bound C that is accepted: beside it, what float32 may lose to underflow in a gradient
of 10^9 values (2^-46) is nothing, in the norm as in the scaled gradient."""

LARGEST_NORM = 2.0**62
"""A unit with a larger norm counts as zero: squares beyond 2^128 overflow in float32, and the
factor of a larger norm would be rounded coarsely there, or to 0, or up."""


@dataclass(frozen=True)
class ClipRule:
    """The factor that each unit's gradient is multiplied by, from the gradient's norm.

    flat: min(1, C / norm) (Abadi et al. 2016, arXiv 1607.00133, algorithm 1).
    automatic: C / (norm + gamma) (Bu et al. 2022, arXiv 2206.07136, eq. 5 "AUTO-S", with R = C).

    Formal guarantee: factor * norm <= C for every norm >= 0; a norm that is not finite, or beyond
    `LARGEST_NORM`, gets the factor 0. Adding or removing one unit changes the sum by at most C in
    L2.

    Raises:
        PrivacyError: the bound or gamma is not a positive finite number, the bound is below
            `SMALLEST_BOUND`, or the rule is unknown.

    >>> norms = torch.tensor([0.5, 2.0, float("nan")], dtype=torch.float64)
    >>> [f"{factor:.3f}" for factor in ClipRule(1.0).factors(norms).tolist()]
    ['1.000', '0.500', '0.000']
    >>> [f"{factor:.3f}" for factor in ClipRule(1.0, "automatic").factors(norms).tolist()]
    ['1.961', '0.498', '0.000']
    """

    max_grad_norm: float
    """The bound C on a unit's contribution, in L2."""
    kind: Clipping = "flat"
    gamma: float = 0.01
    """Stabiliser of automatic clipping; flat clipping ignores it."""

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
        """The factor of each unit: float64 norms (units,) -> float64 factors (units,)."""
        if self.kind == "flat":
            divisors = norms.clamp(min=self.max_grad_norm)
        else:
            divisors = norms + self.gamma
        factors = MARGIN * self.max_grad_norm / divisors
        return factors.masked_fill_(~self.usable(norms), 0.0)

    @staticmethod
    def usable(norms: torch.Tensor) -> torch.Tensor:
        """bool (units,): whether a unit with this norm counts; one with norm NaN does not."""
        return norms <= LARGEST_NORM
