"""Draws a nucleus: its shape, and the density of its chromatin.

The shape is a union of discs along a bent axis. A short axis gives a round or kidney-shaped
nucleus, a long axis gives a band, and narrow places between lobes give a segmented nucleus. So the
whole maturing series is described by the same few numbers.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulations.synthetic.fields import Field, Grid, chain, ellipse, mask, noise, window
from simulations.synthetic.morphology import Morphology

_BEADS = 32
"""Discs along the axis of a nucleus. They are enough for a band with an edge smooth at 0.1 um."""


@dataclass(frozen=True, eq=False)
class Nucleus:
    """The distances from a nucleus and from its clefts, and its centre (x, y) in um."""

    distance: Field
    cleft: Field
    centre: tuple[float, float]


def outline(
    frame: Grid,
    cell: Morphology,
    border: Field,
    warp: tuple[Field, Field],
    rng: np.random.Generator,
) -> Nucleus:
    """Return the nucleus of a cell. A crushed nucleus fills its cell.

    border: the distance from the cell's border, which the nucleus does not cross. warp: the
    displacement of the cell's outline, which the edge of the nucleus shares.
    """
    points, radii = _axis(cell, rng)
    reach = float((np.hypot(points[:, 0], points[:, 1]) + radii).max())
    room = max(cell.diameter / 2 - reach, 0.0) * min(cell.eccentricity, 1.05)
    turn = float(rng.uniform(0, 2 * np.pi))
    centre = (room * float(np.cos(turn)), room * float(np.sin(turn)))
    points = points + np.array(centre)
    quick = noise(frame, 0.7, rng)
    ragged = np.float32(cell.ragged)
    x = frame.x + ragged * (0.7 * warp[0] + 0.35 * quick)
    y = frame.y + ragged * (0.7 * warp[1] - 0.35 * quick)
    distance = np.full(x.shape, 4.0, dtype=np.float32)
    here = window(frame, *centre, reach + 1.5)
    distance[here] = chain(x[here], y[here], points, radii)
    cleft = np.full(distance.shape, 9.0, dtype=np.float32)
    for _ in range(round(cell.clefts)):
        spine, taper = _notch(reach, rng)
        notch = chain(x[here], y[here], spine + np.array(centre), taper)
        cleft[here] = np.minimum(cleft[here], notch)
    if cell.smear:
        return Nucleus(border, cleft, centre)
    inside = np.maximum(distance, border + np.float32(0.25))
    return Nucleus(np.maximum(inside, -cleft), cleft, centre)


def _notch(
    reach: float, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return a cleft that begins at the edge, `reach` um from the centre, and goes inwards.

    It is a union of discs with centres (9, 2) and radii (9,), which shrink to nothing.
    """
    part = np.linspace(0, 1, 9)
    along = np.linspace(1.1, rng.uniform(-0.3, 0.5), 9) * reach
    angle = rng.uniform(0, 2 * np.pi) + rng.normal(0, 0.35) * part
    spine = along[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return spine, np.linspace(rng.uniform(0.25, 0.7), -0.25, 9)


def _axis(
    cell: Morphology, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return discs along the axis of the nucleus: centres (n, 2) around (0, 0), and radii (n,).

    The axis is turned at random. The discs first have a half thickness of 1 and are then scaled, so
    that the integral of the width is the area of the nucleus. An axis that is too long for the cell
    is shortened at the same thickness, so that its lobes crowd together.
    """
    s = np.linspace(0, 1, _BEADS)
    lobes = max(1.0, round(cell.lobes)) if cell.pinch > 0.4 else cell.lobes
    waves = np.sin(2 * np.pi * np.outer([1, 2], s))
    unequal = rng.normal(0, 1, 2) * (0.035, 0.02) @ waves
    phase = 0.25 + (lobes - 0.5) * (s + unequal)
    radii = 1 - cell.pinch * np.cos(np.pi * phase) ** 2
    wave = s * rng.uniform(0.6, 1.4) + rng.random()
    turn = cell.bend * (s - 0.5) + 0.15 * min(cell.elongation, 3) * np.sin(2 * np.pi * wave)
    step = cell.elongation / (_BEADS - 1)
    points = np.cumsum(np.stack([np.cos(turn), np.sin(turn)], axis=1) * step, axis=0)
    points -= (points * radii[:, None]).sum(axis=0) / radii.sum()
    area = 2 * radii.sum() * step + np.pi / 2 * (radii[0] ** 2 + radii[-1] ** 2)
    size = cell.diameter / 2 * np.sqrt(cell.share * np.pi / area)
    radii, points = radii * size, points * size
    room = max(cell.diameter / 2 - 0.3 - radii.max(), 0.1)
    points *= min(1.0, room / max(float(np.hypot(points[:, 0], points[:, 1]).max()), 1e-6))
    angle = rng.uniform(0, 2 * np.pi)
    c, s_ = np.cos(angle), np.sin(angle)
    return points @ np.array([[c, s_], [-s_, c]]), radii


def chromatin(
    frame: Grid,
    cell: Morphology,
    nucleus: Nucleus,
    fibres: Field | None,
    rng: np.random.Generator,
) -> Field:
    """Return the density of the nucleus, with clumps, pale specks, the membrane and nucleoli.

    fibres: the streaks of a crushed nucleus, or None.
    """
    clumps = np.tanh(noise(frame, cell.grain, rng) * 1.2)
    fine = noise(frame, 0.16, rng)
    flecks = np.clip(noise(frame, 0.22, rng) - 0.8, 0, 1.5)
    texture = 1 + cell.clumping * (1.25 * clumps + 0.5 * fine - 1.1 * flecks)
    if cell.wheel:
        texture += 0.22 * cell.wheel * _wheel(frame, cell, nucleus, rng)
    if fibres is not None:
        texture += 0.10 * cell.smear * fibres + 0.22 * noise(frame, 1.0, rng)
    rim = np.exp(-(((nucleus.distance + 0.25) / 0.32) ** 2))
    dome = 1 - 0.10 * np.exp(nucleus.distance / 0.9)
    density = cell.chromatin * (texture * dome + cell.membrane * rim)
    if cell.clefts:
        groove = np.exp(-((np.maximum(nucleus.cleft - 0.15, 0) / 0.22) ** 2))
        ridge = np.exp(-(((nucleus.cleft - 0.75) / 0.3) ** 2))
        density *= 1 - 0.22 * groove + 0.12 * ridge
    for _ in range(int(cell.nucleoli)):
        spot = _nucleolus(frame, cell, nucleus, rng)
        density *= 1 - 0.40 * mask(spot, 0.5)
        density += 0.10 * cell.chromatin * np.exp(-((spot / 0.28) ** 2))
    positive: Field = np.maximum(density, 0)
    return positive


def _wheel(frame: Grid, cell: Morphology, nucleus: Nucleus, rng: np.random.Generator) -> Field:
    """Return clumps along the nucleus' edge, like the numbers of a clock, and one in the middle."""
    x, y = frame.x - np.float32(nucleus.centre[0]), frame.y - np.float32(nucleus.centre[1])
    away = np.hypot(x, y) / np.float32(np.sqrt(cell.share) * cell.diameter / 2)
    spokes = np.cos(int(rng.integers(6, 9)) * np.arctan2(y, x) + float(rng.uniform(0, 2 * np.pi)))
    ring = np.exp(-(((away - 0.75) / 0.3) ** 2))
    clock: Field = spokes * ring + np.exp(-((away / 0.22) ** 2)) - 0.4 * (1 - ring)
    return clock


def _nucleolus(frame: Grid, cell: Morphology, nucleus: Nucleus, rng: np.random.Generator) -> Field:
    reach = 0.32 * cell.diameter * np.sqrt(cell.share)
    angle, away = rng.uniform(0, 2 * np.pi), reach * np.sqrt(rng.random())
    x = frame.x - nucleus.centre[0] - np.float32(away * np.cos(angle))
    y = frame.y - nucleus.centre[1] - np.float32(away * np.sin(angle))
    size = float(rng.uniform(0.6, 1.25))
    return ellipse(x, y, size, float(rng.uniform(1, 1.4)), float(rng.uniform(0, np.pi)))
