"""The traits that all cells of one patient share."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Patient:
    """The traits that a patient's cells share. A factor of 1 and a shift of 0 are average."""

    stain: float = 1.0
    """Factor of all stain on the patient's slide."""
    acidity: float = 0.0
    """Shift of the buffer's acidity: above 0 there is more eosin and less azure."""
    size: float = 1.0
    """Factor of the cells' diameters."""
    chromatin: float = 1.0
    """Factor of the chromatin's contrast."""
    maturity: float = 0.0
    """Shift along the maturing series, in stages."""
    red_size: float = 1.0
    """Factor of the red cells' radii."""
    red_tint: float = 1.0
    """Factor of the haemoglobin in a red cell."""
    pallor: float = 0.6
    """Depth of the red cells' pale centre, 0 to 1."""
    platelets: float = 1.0
    """Mean number of platelets in a picture."""

    @staticmethod
    def random(rng: np.random.Generator) -> "Patient":
        """Return a random patient."""

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
