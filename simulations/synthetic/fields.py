"""Scalar fields on a square field of view: coordinates, noise, distances and soft masks.

Lengths are in um. Fields are float32 arrays of shape (side, side), row by row. A distance is
negative inside a shape. So the maximum of two distances is the intersection of their shapes and the
minimum is the union, and `mask` gives smooth edges without supersampling.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft

Field = NDArray[np.floating[Any]]

FIELD_OF_VIEW = 25.0
"""Edge of a picture in um, as in MLL23."""


@dataclass(frozen=True, eq=False)
class Grid:
    """The pixel centres of a square, whose middle is (0, 0)."""

    side: int
    """Pixels along an edge."""
    pixel: float
    """Edge of a pixel in um."""
    x: Field
    """x of each pixel in um."""
    y: Field
    """y of each pixel in um."""

    @property
    def width(self) -> float:
        """The edge of the square in um."""
        return self.side * self.pixel

    def middle(self, reach: float) -> tuple["Grid", slice]:
        """Return the grid of the pixels within about `reach` um of the middle, in x and in y.

        The slice selects the rows of these pixels in this grid, and likewise the columns.
        """
        margin = max(int((self.width / 2 - reach) / self.pixel) // 4 * 4, 0)
        return grid(self.side - 2 * margin, self.pixel), slice(margin, self.side - margin)


@lru_cache(maxsize=64)
def grid(side: int, pixel: float | None = None) -> Grid:
    """Return the grid of `side` x `side` pixels of `pixel` um; None: of a whole picture."""
    pixel = FIELD_OF_VIEW / side if pixel is None else pixel
    axis = ((np.arange(side) + 0.5 - side / 2) * pixel).astype(np.float32)
    x, y = np.meshgrid(axis, axis)
    return Grid(side, pixel, x, y)


def noise(frame: Grid, scale: float, rng: np.random.Generator) -> Field:
    """Return Gaussian noise of mean 0 and variance 1, smooth over `scale` um.

    Opposite borders join smoothly.
    """
    return _noise(frame.side, _unit_low_pass(frame.side, frame.pixel, _rounded(scale)), rng)


def streaks(
    frame: Grid, along: float, across: float, angle: float, rng: np.random.Generator
) -> Field:
    """Return noise as of `noise`, smooth over different lengths in two directions.

    It is smooth over `along` um in the direction `angle` (rad), and over `across` um at a right
    angle to it.
    """
    u, v = rotated(*_frequencies(frame.side, frame.pixel), angle)
    transfer = np.exp(-2 * np.pi**2 * ((along * u) ** 2 + (across * v) ** 2))
    return _noise(frame.side, _unit(frame.side, transfer), rng)


def _frequencies(side: int, pixel: float) -> tuple[Field, Field]:
    """Return the frequencies of the half spectrum in cycles per um: (1, n) in x, (side, 1) in y."""
    fx, fy = fft.rfftfreq(side, pixel), fft.fftfreq(side, pixel)
    return fx.astype(np.float32)[None, :], fy.astype(np.float32)[:, None]


@lru_cache(maxsize=1024)
def _low_pass(side: int, pixel: float, scale: float) -> Field:
    """Return the transfer function of a Gaussian of standard deviation `scale` um, on the half
    spectrum."""
    fx, fy = _frequencies(side, pixel)
    transfer: Field = np.exp(np.float32(-2 * (np.pi * scale) ** 2) * (fx**2 + fy**2))
    return transfer


@lru_cache(maxsize=1024)
def _unit_low_pass(side: int, pixel: float, scale: float) -> Field:
    return _unit(side, _low_pass(side, pixel, scale))


def _unit(side: int, transfer: Field) -> Field:
    """Return `transfer` without its constant part, scaled so that filtered noise has variance 1.

    Each column of the half spectrum stands for itself and its mirror image, except the first and,
    if `side` is even, the last.
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


def blurred(frame: Grid, field: Field, scale: float) -> Field:
    """Return `field`, convolved with a Gaussian of `scale` um whose peak (and not its sum) is 1."""
    transfer = _low_pass(frame.side, frame.pixel, _rounded(scale))
    peak = 2 * np.pi * (scale / frame.pixel) ** 2
    smooth: Field = fft.irfft2(fft.rfft2(field) * transfer, s=field.shape)
    return smooth * np.float32(max(peak, 1.0))


def _rounded(scale: float) -> float:
    """Round to 0.02 um, or to 0.1 um above 1 um, so that few transfer functions are computed."""
    return round(scale, 1) if scale > 1 else round(scale * 50) / 50


def rotated(x: Field, y: Field, angle: float) -> tuple[Field, Field]:
    """Return the coordinates on axes that are turned by `angle` rad."""
    c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return c * x + s * y, c * y - s * x


def mask(distance: Field, softness: float) -> Field:
    """Return 1 inside a shape and 0 outside, with a smooth step of `softness` um at the edge."""
    t: Field = np.float32(0.5) - distance / np.float32(softness)
    np.maximum(t, 0, out=t)
    np.minimum(t, 1, out=t)
    inside: Field = t * t * (3 - 2 * t)
    return inside


def ellipse(x: Field, y: Field, radius: float, aspect: float, angle: float) -> Field:
    """Return the approximate distance from an ellipse around the origin, of area pi radius^2.

    `aspect` is its length over its width, `angle` the direction of its length in rad.
    """
    u, v = rotated(x, y, angle)
    root = np.float32(aspect**0.5)
    distance: Field = np.hypot(u / root, v * root) - np.float32(radius)
    return distance


def chain(x: Field, y: Field, points: NDArray[np.float64], radii: NDArray[np.float64]) -> Field:
    """Return the distance from the union of discs with centres `points` (n, 2) and `radii` (n,)."""
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
    """Return the distance from a straight stroke of `width` um with round ends."""
    (ax, ay), (bx, by) = start.astype(np.float32), end.astype(np.float32)
    dx, dy = bx - ax, by - ay
    t = np.clip(((x - ax) * dx + (y - ay) * dy) / (dx * dx + dy * dy + np.float32(1e-9)), 0, 1)
    distance: Field = np.hypot(x - ax - t * dx, y - ay - t * dy) - np.float32(width / 2)
    return distance


def window(frame: Grid, x: float, y: float, reach: float) -> tuple[slice, slice]:
    """Return the rows and columns of the square within `reach` um of (x, y); they may be empty."""
    middle = frame.width / 2
    bounds = [
        slice(
            max(0, int((centre - reach + middle) / frame.pixel)),
            max(0, int((centre + reach + middle) / frame.pixel) + 2),
        )
        for centre in (y, x)
    ]
    return bounds[0], bounds[1]
