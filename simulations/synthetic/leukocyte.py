"""A leukocyte, drawn from its `Morphology` into stain densities."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulations.synthetic.fields import (
    Field,
    Grid,
    blurred,
    chain,
    ellipse,
    mask,
    noise,
    segment,
    streaks,
    window,
)
from simulations.synthetic.morphology import Morphology
from simulations.synthetic.site_style import AZURE, CHROMATIN, EOSIN, HEME
from simulations.synthetic.smear import RedCell

_BEADS = 26
"""Discs along a nucleus' axis; enough that a band's edge is smooth at 0.1 um."""


@dataclass(frozen=True, eq=False)
class Shape:
    """Where the cell and its nucleus are: distances, and the nucleus' centre in um."""

    cell: Field
    nucleus: Field
    centre: tuple[float, float]
    cleft: Field


def paint(
    scene: NDArray[np.float32],
    frame: Grid,
    cell: Morphology,
    red_cells: list[RedCell],
    rng: np.random.Generator,
) -> None:
    """Lay the cell over `scene` (4, side, side), hiding most of what lies under it."""
    shape = outline(frame, cell, red_cells, rng)
    softness = 0.45 + 1.6 * cell.smear
    body = mask(shape.cell, softness)
    scene *= 1 - body * (0.92 - 0.3 * cell.smear)
    layers = _cytoplasm(frame, cell, shape, body, rng)
    nucleus = mask(shape.nucleus, softness if cell.smear else 0.4) * body
    layers *= 1 - 0.9 * nucleus
    layers[CHROMATIN] += nucleus * _chromatin(frame, cell, shape, rng)
    layers[AZURE] += 0.12 * nucleus
    _granules(layers, frame, cell, body, nucleus, rng)
    _rods(layers, frame, cell, shape, rng)
    _vacuoles(layers, frame, cell, shape, rng)
    scene += layers


def outline(
    frame: Grid, cell: Morphology, red_cells: list[RedCell], rng: np.random.Generator
) -> Shape:
    """The borders of the cell and its nucleus."""
    radius = cell.diameter / 2
    slow = [noise(frame.side, 0.28 * radius, rng) for _ in range(2)]
    x, y = (frame.x + cell.wobble * slow[0], frame.y + cell.wobble * slow[1])
    border = ellipse(x, y, radius, cell.aspect, float(rng.uniform(0, np.pi)))
    if cell.hairs:
        border = _hairy(frame, border, cell, rng)
    if cell.skirt:
        border = _around(frame, border, cell.skirt, red_cells)
    nucleus, centre, cleft = _nucleus(frame, cell, (slow[1], slow[0]), rng)
    inside = border + np.float32(0.25 if cell.share < 0.9 else -0.3)
    return Shape(border, np.maximum(nucleus, inside), centre, cleft)


def _hairy(frame: Grid, border: Field, cell: Morphology, rng: np.random.Generator) -> Field:
    """The border with fine, bent projections."""
    count = int(cell.hairs)
    angles = (np.arange(count) + rng.uniform(-0.45, 0.45, count)) * 2 * np.pi / count
    lengths = rng.gamma(3.0, 0.42, count)
    widths = rng.uniform(0.28, 0.62, count)
    table = np.arange(720) * (np.pi / 360)
    away = np.abs((table[:, None] - angles + np.pi) % (2 * np.pi) - np.pi) * (cell.diameter / 2)
    rise = (lengths * np.clip(1 - away / widths, 0, None)).max(axis=1).astype(np.float32)
    bent = np.arctan2(frame.y, frame.x) + np.float32(rng.normal(0, 0.10)) * border
    index = (bent * np.float32(360 / np.pi)).astype(np.int32) % 720
    fluffy: Field = border - rise[index] + 0.25
    return fluffy


def _around(frame: Grid, border: Field, skirt: float, red_cells: list[RedCell]) -> Field:
    """The border pulled out between red cells and dented where it meets them."""
    nearest = np.full(border.shape, 4.0, dtype=np.float32)
    for red in red_cells:
        away = ellipse(frame.x - red.x, frame.y - red.y, red.radius, red.aspect, red.angle)
        np.minimum(nearest, away, out=nearest)
    flowing = border - np.float32(1.3 * skirt) * np.exp(-((nearest / 2.2) ** 2))
    dented: Field = np.maximum(flowing, np.float32(0.25) - nearest)
    return dented


def _nucleus(
    frame: Grid, cell: Morphology, warp: tuple[Field, Field], rng: np.random.Generator
) -> tuple[Field, tuple[float, float], Field]:
    """Distance from the nucleus, its centre, and the distance from its clefts."""
    points, radii = _axis(cell, rng)
    reach = float((np.hypot(points[:, 0], points[:, 1]) + radii).max())
    room = max(cell.diameter / 2 - reach, 0.0) * min(cell.eccentricity, 1.05)
    turn = float(rng.uniform(0, 2 * np.pi))
    centre = (room * float(np.cos(turn)), room * float(np.sin(turn)))
    points = points + np.array(centre)
    quick = noise(frame.side, 0.7, rng)
    ragged = np.float32(cell.ragged)
    x = frame.x + ragged * (0.7 * warp[0] + 0.35 * quick)
    y = frame.y + ragged * (0.7 * warp[1] - 0.35 * quick)
    distance = chain(x, y, points, radii)
    cleft = np.full(distance.shape, 9.0, dtype=np.float32)
    for _ in range(round(cell.clefts)):
        angle = float(rng.uniform(0, 2 * np.pi))
        rim = np.array(centre) + 1.1 * reach * np.array([np.cos(angle), np.sin(angle)])
        tip = np.array(centre) + rng.uniform(-0.35, 0.35, 2) * reach
        cleft = np.minimum(cleft, segment(x, y, rim, tip, float(rng.uniform(0.1, 0.4))))
    return np.maximum(distance, np.float32(0.05) - cleft), centre, cleft


def _axis(
    cell: Morphology, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Discs (n, 2) and radii (n,) along the nucleus' axis, centred, turned at random.

    A disc of radius t swept along t * elongation has the area pi t^2 + 2 t^2 elongation.
    """
    area = cell.share * np.pi * cell.diameter**2 / 4
    thick = np.sqrt(area / (np.pi + 2 * cell.elongation * (1 - 0.45 * cell.pinch)))
    s = np.linspace(0, 1, _BEADS)
    lobes = max(1.0, round(cell.lobes)) if cell.pinch > 0.4 else cell.lobes
    uneven = (
        s
        + rng.normal(0, 0.035) * np.sin(2 * np.pi * s)
        + rng.normal(0, 0.02) * np.sin(4 * np.pi * s)
    )
    swell = np.abs(np.sin(np.pi * lobes * uneven)) ** 0.75
    ends = np.minimum(s, 1 - s) < 0.5 / max(lobes, 1.0) * 0.9
    swell = np.where(ends & (lobes > 1.01), np.maximum(swell, 0.75), swell)
    radii = thick * (1 - cell.pinch * (1 - swell))
    turn = cell.bend * (s - 0.5) + 0.45 * min(cell.elongation, 3) / 3 * np.sin(
        2 * np.pi * (s * rng.uniform(0.6, 1.4) + rng.random())
    )
    step = thick * cell.elongation / (_BEADS - 1)
    points = np.cumsum(np.stack([np.cos(turn), np.sin(turn)], axis=1) * step, axis=0)
    points -= (points * radii[:, None]).sum(axis=0) / radii.sum()
    angle = rng.uniform(0, 2 * np.pi)
    c, s_ = np.cos(angle), np.sin(angle)
    points = points @ np.array([[c, s_], [-s_, c]])
    limit = cell.diameter / 2 - 0.3
    reach = float((np.hypot(points[:, 0], points[:, 1]) + radii).max())
    return points * min(1.0, limit / reach), radii * min(1.0, limit / reach)


def _chromatin(frame: Grid, cell: Morphology, shape: Shape, rng: np.random.Generator) -> Field:
    """Density of the nucleus: clumps, pale specks between them, membrane, nucleoli."""
    clumps = np.tanh(noise(frame.side, cell.grain, rng) * 1.2)
    fine = noise(frame.side, 0.16, rng)
    texture = 1 + cell.clumping * (1.25 * clumps + 0.5 * fine)
    if cell.smear:
        grain = streaks(frame.side, 1.6, 0.3, float(rng.uniform(0, np.pi)), rng)
        texture += 0.30 * cell.smear * grain + 0.2 * noise(frame.side, 1.0, rng)
    rim = np.exp(-(((shape.nucleus + 0.25) / 0.32) ** 2))
    dome = 1 - 0.10 * np.exp(shape.nucleus / 0.9)
    density = cell.chromatin * (texture * dome + cell.membrane * rim)
    density *= 1 - 0.30 * np.exp(-((np.maximum(shape.cleft, 0) / 0.3) ** 2))
    for _ in range(int(cell.nucleoli)):
        spot = _nucleolus(frame, cell, shape, rng)
        density *= 1 - 0.34 * mask(spot, 0.5)
        density += 0.10 * cell.chromatin * np.exp(-((spot / 0.28) ** 2))
    positive: Field = np.maximum(density, 0)
    return positive


def _nucleolus(frame: Grid, cell: Morphology, shape: Shape, rng: np.random.Generator) -> Field:
    reach = 0.32 * cell.diameter * np.sqrt(cell.share)
    angle, away = rng.uniform(0, 2 * np.pi), reach * np.sqrt(rng.random())
    x = frame.x - shape.centre[0] - np.float32(away * np.cos(angle))
    y = frame.y - shape.centre[1] - np.float32(away * np.sin(angle))
    size = float(rng.uniform(0.6, 1.25))
    return ellipse(x, y, size, float(rng.uniform(1, 1.4)), float(rng.uniform(0, np.pi)))


def _cytoplasm(
    frame: Grid, cell: Morphology, shape: Shape, body: Field, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Densities (4, side, side) of the cell without nucleus and granules."""
    layers = np.zeros((4, frame.side, frame.side), dtype=np.float32)
    coarse, fine = noise(frame.side, 0.55, rng), noise(frame.side, 0.18, rng)
    uneven = np.clip(1 + cell.mottle * (coarse + 0.7 * fine), 0.2, None)
    border = np.exp(np.minimum(shape.cell, 0) / 0.8)
    pale = 1 - 0.8 * cell.hof * _hof(frame, cell, shape)
    whole = 1 - cell.smear
    layers[AZURE] = (cell.basophilia * pale + cell.edge * border) * uneven * body * whole
    layers[EOSIN] = cell.acidophilia * uneven * body * whole
    layers[HEME] = cell.haemoglobin * body * (0.9 + 0.1 * border)
    film = 0.035 * np.exp(-((shape.cell / 0.35) ** 2)) * whole
    layers[CHROMATIN] = film + body * cell.basophilia * 0.10 * pale * whole
    if cell.dust:
        grains = np.clip(noise(frame.side, 0.20, rng) - 0.35, 0, 1.6)
        layers[CHROMATIN] += 0.16 * cell.dust * grains * body
        layers[EOSIN] += 0.22 * cell.dust * grains * body
    return layers


def _hof(frame: Grid, cell: Morphology, shape: Shape) -> Field:
    """1 in the pale zone between the nucleus and the cell's middle, 0 far from it."""
    x0, y0 = shape.centre
    away = float(np.hypot(x0, y0)) + 1e-6
    reach = np.sqrt(cell.share) * cell.diameter / 2
    x, y = x0 - x0 / away * reach, y0 - y0 / away * reach
    zone = np.hypot(frame.x - np.float32(x), frame.y - np.float32(y)) / (0.16 * cell.diameter)
    collar = np.exp(-((np.maximum(shape.nucleus, 0) / 0.5) ** 2)) * 0.35
    pale: Field = np.maximum(np.exp(-(zone**2)), collar)
    return pale


def _granules(
    layers: NDArray[np.float32],
    frame: Grid,
    cell: Morphology,
    body: Field,
    nucleus: Field,
    rng: np.random.Generator,
) -> None:
    """Add granules; those under the nucleus show by `cover`."""
    shown = body * (1 - nucleus * (1 - cell.cover))
    for count, amounts in (
        (cell.azurophil, {CHROMATIN: 0.75, EOSIN: 0.55}),
        (cell.orange, {EOSIN: 1.05, CHROMATIN: 0.14}),
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
    """`count` round blobs scattered by `weight`, each up to 1; where they pile up, a bit more."""
    chances = np.cumsum(weight.ravel(), dtype=np.float64)
    places = np.searchsorted(chances, rng.random(count) * chances[-1])
    depth = rng.uniform(0.5, 1.0, count)
    dots = np.bincount(places, weights=depth, minlength=weight.size).astype(np.float32)
    piled = np.maximum(blurred(dots.reshape(weight.shape), diameter / 2.6), 0)
    cloud: Field = 1.25 * (1 - np.exp(-piled)) * (weight > 0.05)
    return cloud


def _rods(
    layers: NDArray[np.float32],
    frame: Grid,
    cell: Morphology,
    shape: Shape,
    rng: np.random.Generator,
) -> None:
    """Auer rods: thin magenta needles, often in a bundle."""
    if not cell.rods:
        return
    angle = rng.uniform(0, 2 * np.pi)
    middle = np.array([np.cos(angle), np.sin(angle)]) * cell.diameter * rng.uniform(0.15, 0.36)
    for _ in range(int(cell.rods)):
        turn, length = angle + rng.normal(np.pi / 2, 0.4), rng.uniform(2.0, 4.5)
        half = np.array([np.cos(turn), np.sin(turn)]) * length / 2
        place = middle + rng.normal(0, 0.7, 2)
        needle = mask(segment(frame.x, frame.y, place - half, place + half, 0.26), 0.3)
        needle *= shape.cell < -0.3
        layers[CHROMATIN] += 0.55 * needle
        layers[EOSIN] += 0.75 * needle


def _vacuoles(
    layers: NDArray[np.float32],
    frame: Grid,
    cell: Morphology,
    shape: Shape,
    rng: np.random.Generator,
) -> None:
    """Clear, round holes, mostly outside the nucleus."""
    for _ in range(int(cell.vacuoles)):
        angle, away = rng.uniform(0, 2 * np.pi), cell.diameter / 2 * rng.uniform(0.3, 0.92)
        x, y = away * np.cos(angle), away * np.sin(angle)
        size = float(rng.uniform(0.3, 0.75))
        rows, columns = window(frame, x, y, size + 0.8)
        hole = ellipse(frame.x[rows, columns] - x, frame.y[rows, columns] - y, size, 1.1, 0.0)
        inside = mask(np.maximum(hole, shape.cell[rows, columns] + 0.3), 0.4)
        layers[:, rows, columns] *= 1 - 0.85 * inside
