"""The looks of a lab's pictures, which come from its stain and its camera.

A scene has four densities of stain per pixel. Light passes through them by the Beer-Lambert law,
I = white * exp(-density @ pigments), and then through the lab's optics to its sensor.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from simulations.synthetic.fields import FIELD_OF_VIEW, Field, grid, noise, rotated

Colour = tuple[float, float, float]

CHROMATIN, AZURE, EOSIN, HEME = range(4)
"""The layers of a scene (4, side, side): purple (azure B-eosin on DNA and granules), blue (azure on
RNA), orange (eosin on basic protein), and haemoglobin."""


@dataclass(frozen=True, kw_only=True)
class SiteStyle:
    """The looks of a lab's pictures. Colours are (red, green, blue)."""

    chromatin: Colour = (1.22, 1.80, 0.56)
    """Optical density (base e) of chromatin at a density of 1; likewise azure, eosin and heme."""
    azure: Colour = (0.56, 0.46, 0.10)
    eosin: Colour = (0.16, 0.66, 0.52)
    heme: Colour = (0.27, 0.40, 0.31)
    white: Colour = (0.99, 0.90, 0.80)
    """The empty background, 0 to 1, from the lamp and the white balance."""
    strength: float = 1.0
    """Factor of every density: how long the slide was in the stain."""
    gamma: float = 1.0
    """Exponent that the camera applies to the light."""
    blur: float = 0.10
    """Standard deviation of the optics' blur, um."""
    focus_spread: float = 0.15
    """Relative spread of the blur from picture to picture."""
    sharpen: float = 0.0
    """Strength of the unsharp masking by the camera's software."""
    vignette: float = 0.0
    """Share of the light that is lost at the corners, 0 to 1."""
    tilt: float = 0.02
    """Share of the light that is lost from one border to the opposite one, 0 to 1."""
    noise: float = 0.008
    """About the standard deviation of the sensor's noise where the light is 1."""
    fringe: float = 0.0
    """Shift of red to the right and of blue to the left, um (lateral chromatic aberration)."""
    crowding: float = 0.6
    """How many red cells share the picture, from 0 (none) to 1 (packed)."""
    jpeg_quality: int = 92
    """Quality of the JPEGs, as Pillow counts it."""

    @staticmethod
    def random(seed: int) -> "SiteStyle":
        """Return a plausible lab; the same seed gives the same lab."""
        rng = np.random.default_rng(seed)
        start = list(STYLES.values())[int(rng.integers(len(STYLES)))]

        def shifted(colour: Colour, spread: float, top: float) -> Colour:
            r, g, b = (min(c * float(np.exp(rng.normal(0, spread))), top) for c in colour)
            return (r, g, b)

        return SiteStyle(
            chromatin=shifted(start.chromatin, 0.12, 3.0),
            azure=shifted(start.azure, 0.15, 2.0),
            eosin=shifted(start.eosin, 0.15, 2.0),
            heme=shifted(start.heme, 0.15, 2.0),
            white=shifted(start.white, 0.05, 1.0),
            strength=start.strength * float(np.exp(rng.normal(0, 0.1))),
            gamma=start.gamma * float(np.exp(rng.normal(0, 0.08))),
            blur=float(rng.uniform(0.06, 0.26)),
            focus_spread=float(rng.uniform(0.1, 0.3)),
            sharpen=float(rng.uniform(0, 0.5)),
            vignette=float(rng.uniform(0, 0.3)),
            tilt=float(rng.uniform(0, 0.08)),
            noise=float(rng.uniform(0.004, 0.025)),
            fringe=float(rng.uniform(0, 0.15)),
            crowding=float(rng.uniform(0.3, 0.9)),
            jpeg_quality=int(rng.integers(60, 96)),
        )


STYLES: Mapping[str, SiteStyle] = MappingProxyType(
    {
        "cream": SiteStyle(sharpen=0.3),
        "lilac": SiteStyle(
            chromatin=(0.95, 1.22, 0.16),
            azure=(0.62, 0.34, 0.06),
            eosin=(0.06, 0.46, 0.30),
            heme=(0.16, 0.34, 0.32),
            white=(0.80, 0.83, 0.79),
            blur=0.16,
            noise=0.010,
            crowding=0.5,
            jpeg_quality=75,
        ),
        "slate": SiteStyle(
            chromatin=(1.50, 1.12, 0.62),
            azure=(0.74, 0.36, 0.14),
            eosin=(0.10, 0.50, 0.38),
            heme=(0.34, 0.38, 0.30),
            white=(0.58, 0.66, 0.74),
            blur=0.22,
            focus_spread=0.3,
            vignette=0.38,
            tilt=0.10,
            noise=0.022,
            fringe=0.22,
            crowding=0.75,
            jpeg_quality=62,
        ),
        "straw": SiteStyle(
            chromatin=(0.82, 1.78, 1.02),
            azure=(0.44, 0.40, 0.12),
            eosin=(0.12, 0.74, 0.66),
            heme=(0.10, 0.22, 0.30),
            white=(0.98, 0.93, 0.56),
            strength=0.95,
            blur=0.18,
            noise=0.012,
            sharpen=0.2,
            crowding=0.45,
            jpeg_quality=80,
        ),
        "rose": SiteStyle(
            chromatin=(0.92, 1.66, 0.70),
            azure=(0.46, 0.42, 0.12),
            eosin=(0.06, 0.76, 0.56),
            heme=(0.05, 0.48, 0.34),
            white=(0.97, 0.95, 0.97),
            strength=0.9,
            gamma=0.95,
            blur=0.12,
            tilt=0.04,
            noise=0.014,
            crowding=0.8,
            jpeg_quality=85,
        ),
    }
)
"""Five labs that a person can tell apart at a glance, named after the colour of the background."""


def named_styles(count: int, seed: int) -> dict[str, SiteStyle]:
    """Return name -> style of `count` labs: the five of `STYLES`, then random ones (lab_006, ...).

    >>> list(named_styles(6, seed=0))
    ['cream', 'lilac', 'slate', 'straw', 'rose', 'lab_006']
    """
    styles = dict(list(STYLES.items())[:count])
    for number in range(len(styles) + 1, count + 1):
        styles[f"lab_{number:03d}"] = SiteStyle.random(seed * 100_003 + number)
    return styles


def develop(
    scene: NDArray[np.float32], style: SiteStyle, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Return the picture (side, side, 3) that the lab's camera takes of `scene` (4, side, side)."""
    pigments = np.array([style.chromatin, style.azure, style.eosin, style.heme], dtype=np.float32)
    density = np.einsum("khw,kc->chw", scene, pigments * np.float32(style.strength))
    light = np.exp(-density) * np.array(style.white, dtype=np.float32)[:, None, None]
    light = _optics(light, style, rng)
    light *= _illumination(scene.shape[1], style, rng)
    np.clip(light, 0, 1, out=light)
    np.power(light, np.float32(style.gamma), out=light)
    light += _sensor_noise(light, style, rng)
    picture: NDArray[np.uint8] = np.clip(light * 255 + 0.5, 0, 255).astype(np.uint8)
    return picture.transpose(1, 2, 0)


def _optics(
    light: NDArray[np.float32], style: SiteStyle, rng: np.random.Generator
) -> NDArray[np.float32]:
    pixel = FIELD_OF_VIEW / light.shape[1]
    shift = style.fringe / pixel
    sigma = style.blur * float(np.exp(rng.normal(0, style.focus_spread))) / pixel
    for channel, offset in enumerate((shift, 0.0, -shift)):
        if offset:
            light[channel] = _moved(light[channel], offset)
    smooth = gaussian_filter(light, (0, sigma, sigma), mode="nearest", truncate=3.0)
    if style.sharpen:
        wide = gaussian_filter(smooth, (0, 1.2, 1.2), mode="nearest", truncate=2.5)
        smooth = smooth + np.float32(style.sharpen) * (smooth - wide)
    result: NDArray[np.float32] = smooth
    return result


def _moved(channel: Field, pixels: float) -> Field:
    """Return `channel`, moved to the right by `pixels`, which need not be whole.

    The border pixels are repeated.
    """
    whole = int(np.floor(pixels))
    part = np.float32(pixels - whole)
    columns = np.arange(channel.shape[1])
    left = np.clip(columns - whole, 0, columns[-1])
    further = np.clip(columns - whole - 1, 0, columns[-1])
    return (1 - part) * channel[:, left] + part * channel[:, further]


def _illumination(side: int, style: SiteStyle, rng: np.random.Generator) -> Field:
    frame = grid(side)
    half = FIELD_OF_VIEW / 2
    angle = rng.uniform(0, 2 * np.pi)
    slope = rotated(frame.x, frame.y, angle)[0] / half
    corner = (frame.x**2 + frame.y**2) / (2 * half**2)
    lamp = 1 + float(rng.normal(0, 0.015))
    light: Field = lamp - style.vignette * corner + 0.5 * style.tilt * slope
    return light


def _sensor_noise(light: NDArray[np.float32], style: SiteStyle, rng: np.random.Generator) -> Field:
    """Return shot noise, in proportion to the root of the light.

    Each channel has a part of its own and a part that all channels share.
    """
    own = rng.standard_normal(light.shape, dtype=np.float32)
    shared = noise(grid(light.shape[1]), 0.2, rng)
    total: Field = (0.8 * own + 0.5 * shared) * np.sqrt(light) * style.noise
    return total
