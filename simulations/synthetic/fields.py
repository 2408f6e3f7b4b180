"""Scalar fields on a square field of view: coordinates, noise, distances, soft masks.

Lengths are in um. Fields are float32 arrays of shape (side, side), row by row. A distance is
negative inside a shape, so that `max` intersects, `min` unites, and `mask` gives smooth edges
without supersampling.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft

Field = NDArray[np.floating[Any]]

FIELD_OF_VIEW = 25.0
"""um across a picture, as in MLL23."""


@dataclass(frozen=True, eq=False)
class Grid:
    """Pixel centres of a picture; (0, 0) is its middle."""

    side: int
    x: Field
    y: Field

    @property
    def pixel(self) -> float:
        """um a pixel."""
        return FIELD_OF_VIEW / self.side


@lru_cache(maxsize=8)
def grid(side: int) -> Grid:
    """The grid of a picture of `side` x `side` pixels."""
    axis = (np.arange(side, dtype=np.float32) + 0.5) * (FIELD_OF_VIEW / side) - FIELD_OF_VIEW / 2
    x, y = np.meshgrid(axis, axis)
    return Grid(side, x, y)


@lru_cache(maxsize=512)
def _low_pass(side: int, scale: float) -> Field:
    """Fourier transfer of a Gaussian of standard deviation `scale` um, on the half spectrum."""
    step = FIELD_OF_VIEW / side
    fy = fft.fftfreq(side, step)[:, None]
    fx = fft.rfftfreq(side, step)[None, :]
    transfer: Field = np.exp(-2 * (np.pi * scale) ** 2 * (fx**2 + fy**2)).astype(np.float32)
    return transfer


def noise(side: int, scale: float, rng: np.random.Generator) -> Field:
    """Gaussian noise of mean 0 and variance 1, smooth over `scale` um; wraps at the borders."""
    return _noise(side, _unit_low_pass(side, _rounded(scale)), rng)


def streaks(
    side: int, along: float, across: float, angle: float, rng: np.random.Generator
) -> Field:
    """Noise smooth over `along` um in the direction `angle` (rad) and `across` um beside it."""
    step = FIELD_OF_VIEW / side
    fy = fft.fftfreq(side, step)[:, None].astype(np.float32)
    fx = fft.rfftfreq(side, step)[None, :].astype(np.float32)
    u, v = rotated(fx, fy, angle)
    transfer = np.exp(-2 * np.pi**2 * ((along * u) ** 2 + (across * v) ** 2))
    return _noise(side, _unit(side, transfer), rng)


@lru_cache(maxsize=512)
def _unit_low_pass(side: int, scale: float) -> Field:
    return _unit(side, _low_pass(side, scale))


def _unit(side: int, transfer: Field) -> Field:
    """`transfer` without its constant part, scaled to make white noise of variance 1.

    A column of the half spectrum stands for itself and its mirror image, but for the first and,
    where `side` is even, the last.
    """
    transfer = transfer.copy()
    transfer[0, 0] = 0.0
    mirrored = np.full(transfer.shape[1], 4.0)
    mirrored[0] = 1.0
    if side % 2 == 0:
        mirrored[-1] = 1.0
    variance = float((transfer.astype(np.float64) ** 2 * mirrored).sum())
    scaled: Field = (transfer * (side**2 / variance**0.5)).astype(np.float32)
    return scaled


def _noise(side: int, transfer: Field, rng: np.random.Generator) -> Field:
    white = rng.standard_normal((*transfer.shape, 2), dtype=np.float32).view(np.complex64)[..., 0]
    white *= transfer
    field: Field = fft.irfft2(white, s=(side, side), overwrite_x=True)
    return field


def blurred(field: Field, scale: float) -> Field:
    """`field` convolved with a Gaussian of `scale` um whose peak is 1 (not its sum)."""
    side = field.shape[0]
    transfer = _low_pass(side, _rounded(scale))
    peak = 2 * np.pi * (scale * side / FIELD_OF_VIEW) ** 2
    smooth: Field = fft.irfft2(fft.rfft2(field) * transfer, s=(side, side))
    return smooth * np.float32(max(peak, 1.0))


def _rounded(scale: float) -> float:
    """Scales in steps of 0.02 um, so that few transfers fill the cache."""
    return round(scale * 50) / 50


def rotated(x: Field, y: Field, angle: float) -> tuple[Field, Field]:
    """The coordinates seen from axes turned by `angle` rad."""
    c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return c * x + s * y, c * y - s * x


def mask(distance: Field, softness: float) -> Field:
    """1 inside, 0 outside, a smooth step of about `softness` um at the edge."""
    t = np.clip(np.float32(0.5) - distance / np.float32(softness), 0, 1)
    inside: Field = t * t * (3 - 2 * t)
    return inside


def ellipse(x: Field, y: Field, radius: float, aspect: float, angle: float) -> Field:
    """Distance, to first order, from an ellipse of area pi radius^2 about the origin."""
    u, v = rotated(x, y, angle)
    root = np.float32(aspect**0.5)
    distance: Field = np.hypot(u / root, v * root) - np.float32(radius)
    return distance


def chain(x: Field, y: Field, points: NDArray[np.float64], radii: NDArray[np.float64]) -> Field:
    """Distance from the union of discs: `points` (n, 2), `radii` (n,)."""
    nearest = np.full(x.shape, np.inf, dtype=np.float32)
    for (px, py), radius in zip(points.astype(np.float32), radii.astype(np.float32), strict=True):
        dx, dy = x - px, y - py
        dx *= dx
        dy *= dy
        dx += dy
        np.sqrt(dx, out=dx)
        dx -= radius
        np.minimum(nearest, dx, out=nearest)
    return nearest


def segment(
    x: Field, y: Field, start: NDArray[np.float64], end: NDArray[np.float64], width: float
) -> Field:
    """Distance from a straight stroke of `width` um with round ends."""
    (ax, ay), (bx, by) = start.astype(np.float32), end.astype(np.float32)
    dx, dy = bx - ax, by - ay
    t = np.clip(((x - ax) * dx + (y - ay) * dy) / (dx * dx + dy * dy + np.float32(1e-9)), 0, 1)
    distance: Field = np.hypot(x - ax - t * dx, y - ay - t * dy) - np.float32(width / 2)
    return distance


def window(frame: Grid, x: float, y: float, reach: float) -> tuple[slice, slice]:
    """Rows and columns of the square within `reach` um of (x, y); may be empty."""
    middle = FIELD_OF_VIEW / 2
    bounds = [
        slice(
            max(0, int((centre - reach + middle) / frame.pixel)),
            max(0, int((centre + reach + middle) / frame.pixel) + 2),
        )
        for centre in (y, x)
    ]
    return bounds[0], bounds[1]
