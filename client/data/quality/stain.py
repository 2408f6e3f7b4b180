"""A site's stain in numbers that may leave the site, and the distance between two sites' stains."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import DataError

ALL = "all types"
"""The key of the colours over all images, whatever their type."""
LEAST = 10
"""A profile leaves out a type with fewer images: its medians would describe single cells."""
FORMAT = 1

Lab = NDArray[np.float32]
"""(N, 3): L, a and b of N images."""


@dataclass(frozen=True, kw_only=True)
class Colours:
    """Medians over the images of one cell type."""

    images: int
    """How many images."""
    nucleus: tuple[float, float, float]
    """Lab of the twentieth of each image that absorbs most green; a nucleus is always larger."""
    background: tuple[float, float, float]
    """Lab of the quarter of each image that absorbs least green."""


@dataclass(frozen=True)
class Profile:
    """The colours of a site's images. A profile holds no image and no file name."""

    colours: Mapping[str, Colours]
    """Cell type -> its colours; `ALL` -> the colours of all images."""

    def to_json(self) -> dict[str, Any]:
        """The profile as JSON types, colours rounded to 0.01, in the form for `read_profile`."""
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

    A person just sees a difference of about 2 between colours side by side. Each figure is the mean
    over `types`, so that the number of images of a type does not matter.
    """

    reference: str
    """The reference's name, for the reader."""
    types: tuple[str, ...]
    """The compared cell types, or `ALL` alone."""
    nucleus: float
    """The distance of the nuclei."""
    background: float
    """The distance of the backgrounds."""
    shift: tuple[float, float, float]
    """The nuclei here minus those of the reference: L, a, b."""

    @property
    def direction(self) -> str:
        """The shift in words; components under 2 do not count.

        >>> Drift(
        ...     reference="b", types=(ALL,), nucleus=6.7, background=0.0, shift=(-6.0, 3.0, 0.5)
        ... ).direction
        'darker, redder'
        """
        words = (("darker", "lighter"), ("less red", "redder"), ("bluer", "less blue"))
        parts = [
            pair[int(value > 0)]
            for pair, value in zip(words, self.shift, strict=True)
            if abs(value) >= 2
        ]
        return ", ".join(parts) or "alike on average"


def profile(nucleus: Lab, background: Lab, labels: Sequence[str]) -> Profile:
    """Make the profile of N images: each label with at least `LEAST` images, and `ALL`.

    nucleus, background: float32 (N, 3), Lab. labels: N labels. With fewer than `LEAST` images in
    all, the profile is empty.
    """
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
    """Compare two profiles over the types that both have, else over all images.

    `reference` is the name of `there`. Returns None when the profiles have nothing in common.
    """
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
    """Read the profile in a file of `data check --profile` or `--json`.

    Raises DataError when the file cannot be read or holds no profile.
    """
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
