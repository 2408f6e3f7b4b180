"""Draws what lies in a cytoplasm: granules, Auer rods and vacuoles."""

import numpy as np
from numpy.typing import NDArray

from simulations.synthetic.fields import Field, Grid, blurred, ellipse, mask, segment, window
from simulations.synthetic.morphology import Morphology
from simulations.synthetic.site_style import AZURE, CHROMATIN, EOSIN


def add_granules(
    layers: NDArray[np.float32],
    frame: Grid,
    cell: Morphology,
    body: Field,
    nucleus: Field,
    rng: np.random.Generator,
) -> None:
    """Add the cell's granules to `layers` (4, side, side); `cell.cover` decides how much of those
    over the nucleus shows.

    body, nucleus: masks of the cell and of its nucleus, 0 to 1.
    """
    shown = body * (1 - nucleus * (1 - cell.cover))
    for count, amounts in (
        (cell.azurophil, {CHROMATIN: 0.62, EOSIN: 0.75}),
        (cell.orange, {EOSIN: 0.74, CHROMATIN: 0.10}),
        (cell.dark, {CHROMATIN: 1.05, AZURE: 0.25}),
    ):
        if not count:
            continue
        cloud = _cloud(frame, int(count), cell.granule, shown, rng)
        for layer, amount in amounts.items():
            layers[layer] += np.float32(amount) * cloud


def _cloud(
    frame: Grid, count: int, diameter: float, weight: Field, rng: np.random.Generator
) -> Field:
    """Return `count` round blobs at random places, chosen in proportion to `weight`.

    Where many blobs overlap, the density approaches 1.25.
    """
    chances = np.cumsum(weight.ravel(), dtype=np.float64)
    places = np.searchsorted(chances, rng.random(count) * chances[-1])
    depth = rng.uniform(0.5, 1.0, count)
    dots = np.bincount(places, weights=depth, minlength=weight.size).astype(np.float32)
    piled = np.maximum(blurred(frame, dots.reshape(weight.shape), diameter / 2.6), 0)
    cloud: Field = 1.25 * (1 - np.exp(-piled)) * np.minimum(3 * weight, 1)
    return cloud


def add_rods(
    layers: NDArray[np.float32],
    frame: Grid,
    cell: Morphology,
    border: Field,
    rng: np.random.Generator,
) -> None:
    """Add the cell's Auer rods to `layers` (4, side, side): thin magenta needles near each other.

    border: the distance from the cell's border.
    """
    if not cell.rods:
        return
    angle = rng.uniform(0, 2 * np.pi)
    middle = np.array([np.cos(angle), np.sin(angle)]) * cell.diameter * rng.uniform(0.15, 0.36)
    for _ in range(int(cell.rods)):
        turn, length = angle + rng.normal(np.pi / 2, 0.4), rng.uniform(2.0, 4.5)
        half = np.array([np.cos(turn), np.sin(turn)]) * length / 2
        place = middle + rng.normal(0, 0.7, 2)
        needle = mask(segment(frame.x, frame.y, place - half, place + half, 0.26), 0.3)
        needle *= border < -0.3
        layers[CHROMATIN] += 0.55 * needle
        layers[EOSIN] += 0.75 * needle


def add_vacuoles(
    layers: NDArray[np.float32],
    frame: Grid,
    cell: Morphology,
    border: Field,
    rng: np.random.Generator,
) -> None:
    """Cut the cell's vacuoles into `layers` (4, side, side): pale, round holes.

    border: the distance from the cell's border.
    """
    for _ in range(int(cell.vacuoles)):
        angle, away = rng.uniform(0, 2 * np.pi), cell.diameter / 2 * rng.uniform(0.3, 0.92)
        x, y = float(away * np.cos(angle)), float(away * np.sin(angle))
        size = float(rng.uniform(0.3, 0.75))
        rows, columns = window(frame, x, y, size + 0.8)
        hole = ellipse(frame.x[rows, columns] - x, frame.y[rows, columns] - y, size, 1.1, 0.0)
        inside = mask(np.maximum(hole, border[rows, columns] + 0.3), 0.4)
        layers[:, rows, columns] *= 1 - 0.85 * inside
