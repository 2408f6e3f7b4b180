"""How a unit's gradient is scaled so that its L2 norm stays within the bound."""

from dataclasses import dataclass
from typing import Literal

import torch

from common.errors import PrivacyError

Clipping = Literal["flat", "automatic"]

MARGIN = 1 - 2.0**-22
"""Factors are this much smaller than the formula's: float32 rounding in the scaled sum must not
lift a unit's contribution above the bound. Costs 2.4e-7 of the gradient's length."""


@dataclass(frozen=True)
class ClipRule:
    """A factor for each unit from its gradient's norm.

    flat: min(1, C / norm) (Abadi et al. 2016, arXiv 1607.00133, algorithm 1).
    automatic: C / (norm + gamma) (Bu et al. 2022, arXiv 2206.07136, eq. 5 "AUTO-S", with R = C).

    Formal guarantee: factor * norm <= C for every norm >= 0; a norm that is not finite gets the
    factor 0. Adding or removing one unit changes the sum by at most C in L2.

    Raises:
        PrivacyError: the bound or gamma is not a positive finite number, or the rule is unknown.
    """

    max_grad_norm: float
    kind: Clipping = "flat"
    gamma: float = 0.01

    def __post_init__(self) -> None:
        for name, value in (("max_grad_norm", self.max_grad_norm), ("gamma", self.gamma)):
            if not 0 < value < float("inf"):
                raise PrivacyError(f"Expected {name}={value} to be positive and finite.")
        if self.kind not in ("flat", "automatic"):
            raise PrivacyError(f"Unknown clipping={self.kind!r}; choose 'flat' or 'automatic'.")

    def factors(self, norms: torch.Tensor) -> torch.Tensor:
        """Factors, float64 (units,), for float64 norms (units,)."""
        if self.kind == "flat":
            divisors = norms.clamp(min=self.max_grad_norm)
        else:
            divisors = norms + self.gamma
        return (MARGIN * self.max_grad_norm / divisors).nan_to_num_(nan=0.0)
