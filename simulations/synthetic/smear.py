"""Draws what lies around a cell on the slide: red cells, platelets and plasma."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulations.synthetic.fields import FIELD_OF_VIEW, Grid, ellipse, mask, noise, window
from simulations.synthetic.patient import Patient
from simulations.synthetic.site_style import AZURE, CHROMATIN, EOSIN, HEME

RED_RADIUS = 3.6
"""The mean radius of a red cell in um."""


@dataclass(frozen=True)
class RedCell:
    """A red cell: its place, shape and colour. Lengths are in um, angles in rad."""

    x: float
    y: float
    radius: float
    aspect: float
    """Its length over its width."""
    angle: float
    depth: float
    """Density of haemoglobin; 1 is average."""
    pallor: float
    """Depth of the pale centre, 0 to 1."""
    hollow: float
    """Radius of the pale centre, in radii of the cell."""


def scatter(
    radius: float, crowding: float, patient: Patient, rng: np.random.Generator
) -> list[RedCell]:
    """Return random red cells around a cell of `radius` um in the middle; some lie partly under it.

    crowding: 0 for none to 1 for packed.
    """
    wanted = int(rng.poisson(20 * crowding))
    tries = 6 * wanted
    reach = FIELD_OF_VIEW / 2 + 2.5
    places = rng.uniform(-reach, reach, (tries, 2)).tolist()
    chances = rng.random((tries, 4))
    traits = rng.standard_normal((tries, 4)).tolist()
    size = RED_RADIUS * patient.red_size
    kept: list[int] = []
    for index, (x, y) in enumerate(places):
        under, over = chances[index, :2]
        apart = ((1.3 if over > 0.9 else 1.85) * size) ** 2
        clear = math.hypot(x, y) > radius + (0.35 if under > 0.87 else 0.8) * size
        if clear and all((x - places[k][0]) ** 2 + (y - places[k][1]) ** 2 > apart for k in kept):
            kept.append(index)
            if len(kept) == wanted:
                break
    return [_red_cell(places[k], chances[k, 2:].tolist(), traits[k], patient) for k in kept]


def _red_cell(
    place: list[float], chances: list[float], traits: list[float], patient: Patient
) -> RedCell:
    size, stretch, depth, hollow = traits
    flat = chances[0] < 0.15
    return RedCell(
        x=place[0],
        y=place[1],
        radius=RED_RADIUS * patient.red_size * math.exp(0.07 * size),
        aspect=1 + abs(0.10 * stretch),
        angle=math.pi * chances[1],
        depth=patient.red_tint * math.exp(0.10 * depth),
        pallor=0.15 if flat else min(patient.pallor * (0.8 + 0.4 * chances[1]), 0.97),
        hollow=min(max(0.46 + 0.09 * hollow, 0.25), 0.68),
    )


def paint_red_cells(
    scene: NDArray[np.float32], frame: Grid, cells: list[RedCell], rng: np.random.Generator
) -> None:
    """Add the haemoglobin of the red cells, biconcave discs, to `scene` (4, side, side)."""
    warp = 0.22 * noise(frame, 1.6, rng)
    for cell in cells:
        rows, columns = window(frame, cell.x, cell.y, cell.radius * cell.aspect**0.5 + 0.9)
        x, y = frame.x[rows, columns] - cell.x, frame.y[rows, columns] - cell.y
        if not x.size:
            continue
        distance = ellipse(x, y, cell.radius, cell.aspect, cell.angle) + warp[rows, columns]
        inward = np.maximum(1 + distance / cell.radius, 0)
        centre = np.exp(-((inward / cell.hollow) ** 3))
        bulge = np.exp(-(((inward - 0.72) / 0.22) ** 2))
        thickness = (1 - cell.pallor * centre) * (0.80 + 0.25 * bulge)
        scene[HEME, rows, columns] += cell.depth * mask(distance, 0.45) * thickness


def paint_platelets(
    scene: NDArray[np.float32],
    frame: Grid,
    radius: float,
    patient: Patient,
    rng: np.random.Generator,
) -> None:
    """Add small, lilac, granular platelets to `scene` (4, side, side), outside `radius` um."""
    half = FIELD_OF_VIEW / 2
    count = int(rng.poisson(patient.platelets))
    texture = noise(frame, 0.28, rng) if count else frame.x
    for _ in range(count):
        x0, y0 = rng.uniform(-half, half, 2).tolist()
        size = float(np.clip(rng.normal(1.15, 0.28), 0.6, 2.2))
        aspect, angle = 1 + abs(float(rng.normal(0, 0.3))), float(rng.uniform(0, np.pi))
        if np.hypot(x0, y0) < radius + size + 0.3:
            continue
        rows, columns = window(frame, x0, y0, 1.6 * size + 1)
        x, y = frame.x[rows, columns] - x0, frame.y[rows, columns] - y0
        grainy = texture[rows, columns]
        distance = ellipse(x, y, size, aspect, angle) + 0.15 * grainy
        body = mask(distance, 0.6)
        core = mask(distance + 0.35 * size, 0.9) * np.clip(0.6 + 0.5 * grainy, 0, 1.4)
        scene[AZURE, rows, columns] += 0.22 * body
        scene[EOSIN, rows, columns] += 0.12 * body
        scene[CHROMATIN, rows, columns] += 0.55 * core


def paint_plasma(scene: NDArray[np.float32], frame: Grid, rng: np.random.Generator) -> None:
    """Add a faint, uneven film of protein and a few specks of stain to `scene` (4, side, side)."""
    film = np.clip(0.03 + 0.012 * noise(frame, 2.5, rng), 0, None)
    scene[EOSIN] += film
    scene[AZURE] += 0.5 * film
    for _ in range(int(rng.poisson(0.4))):
        x, y = rng.uniform(-FIELD_OF_VIEW / 2, FIELD_OF_VIEW / 2, 2).tolist()
        spot = ellipse(frame.x - x, frame.y - y, float(rng.uniform(0.12, 0.3)), 1.2, 0.0)
        scene[CHROMATIN] += 0.9 * mask(spot, 0.4)
