"""A site's stain in numbers that may leave the site, and how far two sites' stains lie apart."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import DataError

ALL = "all types"
LEAST = 10
"""A type with fewer images is not in the profile: its numbers would be those of single cells."""
FORMAT = 1

Lab = NDArray[np.float32]
"""(N, 3), of N images."""


@dataclass(frozen=True, kw_only=True)
class Colours:
    """Medians over the images of one cell type."""

    images: int
    nucleus: tuple[float, float, float]
    """Lab of the darkest twentieth of each image: smaller than any white cell's nucleus."""
    background: tuple[float, float, float]
    """Lab of the lightest quarter."""


@dataclass(frozen=True)
class Profile:
    """Colours by cell type, and under `ALL` over all images. Holds no image and no file name."""

    colours: Mapping[str, Colours]

    def to_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "colours": {
                name: {
                    "images": part.images,
                    "nucleus": [round(value, 2) for value in part.nucleus],
                    "background": [round(value, 2) for value in part.background],
                }
                for name, part in self.colours.items()
            },
        }


@dataclass(frozen=True, kw_only=True)
class Drift:
    """How far a site's colours lie from a reference's, in Lab units (CIE 1976 delta E).

    About 2 is just seen beside each other.
    """

    reference: str
    types: tuple[str, ...]
    """The cell types compared; the mean over them, so that their numbers do not matter."""
    nucleus: float
    background: float
    shift: tuple[float, float, float]
    """Mean nucleus here minus there: L, a, b."""

    @property
    def direction(self) -> str:
        """The shift in words."""
        words = (("darker", "lighter"), ("less red", "redder"), ("bluer", "less blue"))
        parts = [
            pair[int(value > 0)]
            for pair, value in zip(words, self.shift, strict=True)
            if abs(value) >= 2
        ]
        return ", ".join(parts) or "alike on average"


def profile(nucleus: Lab, background: Lab, labels: Sequence[str]) -> Profile:
    """The colours of each label with at least `LEAST` images, and of all images."""
    names = np.asarray(labels, dtype=str)
    groups = {ALL: np.ones(len(names), dtype=bool)}
    groups |= {str(name): names == name for name in np.unique(names)}
    return Profile(
        {
            name: _colours(nucleus[members], background[members])
            for name, members in groups.items()
            if members.sum() >= LEAST
        }
    )


def _colours(nucleus: Lab, background: Lab) -> Colours:
    def middle(values: Lab) -> tuple[float, float, float]:
        lightness, red, yellow = np.median(values, axis=0)
        return float(lightness), float(red), float(yellow)

    return Colours(
        images=len(nucleus),
        nucleus=middle(nucleus),
        background=middle(background),
    )


def drift(here: Profile, there: Profile, reference: str) -> Drift | None:
    """Compare type by type where both have the type, else over all; None where neither can."""
    types = sorted(set(here.colours) & set(there.colours) - {ALL})
    if not types and ALL in here.colours and ALL in there.colours:
        types = [ALL]
    if not types:
        return None

    def apart(part: str) -> NDArray[np.float64]:
        return np.array(
            [
                np.subtract(getattr(here.colours[name], part), getattr(there.colours[name], part))
                for name in types
            ]
        )

    nucleus, background = apart("nucleus"), apart("background")
    lightness, red, yellow = nucleus.mean(axis=0)
    return Drift(
        reference=reference,
        types=tuple(types),
        nucleus=float(np.linalg.norm(nucleus, axis=1).mean()),
        background=float(np.linalg.norm(background, axis=1).mean()),
        shift=(float(lightness), float(red), float(yellow)),
    )


def read_profile(path: Path) -> Profile:
    """A profile file, or a check's JSON with one in it. Raises DataError: it is neither."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        content = content.get("profile", content)
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']}, expected {FORMAT}")
        return Profile(
            {
                str(name): Colours(
                    images=int(part["images"]),
                    nucleus=_three(part["nucleus"]),
                    background=_three(part["background"]),
                )
                for name, part in content["colours"].items()
            }
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path}: is not a stain profile ({error}); make one at the reference site with "
            "`hemofed data check SOURCE --profile FILE`"
        ) from error


def _three(values: Any) -> tuple[float, float, float]:
    first, second, third = (float(value) for value in values)
    return first, second, third
