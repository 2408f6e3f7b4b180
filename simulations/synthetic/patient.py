"""What all cells of one patient share."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Patient:
    """Relative factors (1: average) and shifts (0: average)."""

    stain: float = 1.0
    """Strength of all stain on this slide."""
    acidity: float = 0.0
    """Above 0 the buffer favours eosin over azure."""
    size: float = 1.0
    chromatin: float = 1.0
    """Contrast of the chromatin."""
    maturity: float = 0.0
    """Shift along the maturing series, in stages."""
    red_size: float = 1.0
    red_tint: float = 1.0
    """Haemoglobin in a red cell."""
    pallor: float = 0.6
    """Depth of the red cells' pale centre, 0 to 1."""
    platelets: float = 1.0
    """Expected platelets in a field."""

    @staticmethod
    def random(rng: np.random.Generator) -> "Patient":
        """A patient drawn from `rng`."""

        def factor(spread: float) -> float:
            return float(np.exp(np.clip(rng.normal(0, spread), -2.5 * spread, 2.5 * spread)))

        return Patient(
            stain=factor(0.09),
            acidity=float(rng.normal(0, 0.08)),
            size=factor(0.035),
            chromatin=factor(0.15),
            maturity=float(np.clip(rng.normal(0, 0.08), -0.2, 0.2)),
            red_size=factor(0.06),
            red_tint=factor(0.15),
            pallor=float(rng.uniform(0.5, 0.95)),
            platelets=float(rng.gamma(2.0, 0.5)),
        )
