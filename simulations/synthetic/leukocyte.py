"""Draws a leukocyte from its `Morphology` as densities of stain."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulations.synthetic import inclusions
from simulations.synthetic import nucleus as nuclei
from simulations.synthetic.fields import Field, Grid, ellipse, mask, noise, streaks
from simulations.synthetic.morphology import Morphology
from simulations.synthetic.nucleus import Nucleus
from simulations.synthetic.site_style import AZURE, CHROMATIN, EOSIN, HEME
from simulations.synthetic.smear import RedCell


@dataclass(frozen=True, eq=False)
class Outline:
    """A cell's border, and the irregularities that its nucleus shares."""

    border: Field
    """The distance from the border."""
    warp: tuple[Field, Field]
    """Smooth displacement (variance 1) along x and y."""
    fibres: Field | None
    """Streaks of a crushed nucleus; None: it is not crushed."""


def paint(
    scene: NDArray[np.float32],
    frame: Grid,
    cell: Morphology,
    red_cells: list[RedCell],
    rng: np.random.Generator,
) -> None:
    """Draw the cell into the middle of `scene` (4, side, side), over what lies there."""
    frame, here = frame.middle(_reach(cell))
    scene = scene[:, here, here]
    shape = outline(frame, cell, red_cells, rng)
    nucleus = nuclei.outline(frame, cell, shape.border, shape.warp, rng)
    softness = 0.45 + 1.6 * cell.smear
    body = mask(shape.border, softness)
    core = mask(nucleus.distance, softness if cell.smear else 0.4) * body
    scene *= 1 - body * (0.92 - 0.3 * cell.smear)
    layers = _cytoplasm(frame, cell, shape.border, nucleus, body, rng)
    layers *= 1 - 0.9 * core
    layers[CHROMATIN] += core * nuclei.chromatin(frame, cell, nucleus, shape.fibres, rng)
    layers[AZURE] += 0.12 * core
    inclusions.add_granules(layers, frame, cell, body, core, rng)
    inclusions.add_rods(layers, frame, cell, shape.border, rng)
    inclusions.add_vacuoles(layers, frame, cell, shape.border, rng)
    scene += layers


def _reach(cell: Morphology) -> float:
    """Return the distance from the middle, in um, that the cell almost never exceeds."""
    long = cell.diameter / 2 * cell.aspect**0.5
    stray = 2.5 * cell.wobble + 2.5 * cell.smear + 1.5 * cell.skirt + 2.0 * bool(cell.hairs)
    return float(long + 1.2 + stray)


def outline(
    frame: Grid, cell: Morphology, red_cells: list[RedCell], rng: np.random.Generator
) -> Outline:
    """Return the cell's outline: a distorted ellipse with the cell's hairs and skirts."""
    radius = cell.diameter / 2
    first, second = (noise(frame, 0.28 * radius, rng) for _ in range(2))
    x, y = frame.x + cell.wobble * first, frame.y + cell.wobble * second
    pull, fibres = float(rng.uniform(0, np.pi)), None
    if cell.smear:
        fibres = streaks(frame, 2.2, 0.32, pull, rng)
        crumbs = 0.25 * noise(frame, 0.5, rng)
        drag = float(rng.uniform(0.1, 1.0)) * cell.smear
        x = x + np.float32(drag * np.cos(pull)) * fibres + crumbs
        y = y + np.float32(drag * np.sin(pull)) * fibres - crumbs
    border = ellipse(x, y, radius, cell.aspect, pull)
    if cell.hairs:
        border = _hairy(frame, border, cell, rng)
    if cell.skirt:
        border = _around(frame, border, cell.skirt, red_cells)
    return Outline(border, (second, first), fibres)


def _hairy(frame: Grid, border: Field, cell: Morphology, rng: np.random.Generator) -> Field:
    """Return the border with fine, bent projections."""
    count = int(cell.hairs)
    angles = rng.uniform(0, 2 * np.pi, count)
    lengths = 0.25 + rng.gamma(1.6, 0.55, count)
    widths = rng.uniform(0.28, 0.75, count)
    table = np.arange(720) * (np.pi / 360)
    away = np.abs((table[:, None] - angles + np.pi) % (2 * np.pi) - np.pi) * (cell.diameter / 2)
    rise = (lengths * np.clip(1 - away / widths, 0, None)).max(axis=1).astype(np.float32)
    curl = np.float32(rng.normal(0, 0.05)) + 0.06 * noise(frame, 1.5, rng)
    bent = np.arctan2(frame.y, frame.x) + curl * border
    index = (bent * np.float32(360 / np.pi)).astype(np.int32) % 720
    frayed = 0.16 * noise(frame, 0.3, rng)
    fluffy: Field = border - rise[index] + 0.35 + frayed
    return fluffy


def _around(frame: Grid, border: Field, skirt: float, red_cells: list[RedCell]) -> Field:
    """Return the border, drawn out near red cells and dented where it meets them."""
    nearest = np.full(border.shape, 4.0, dtype=np.float32)
    for red in red_cells:
        away = ellipse(frame.x - red.x, frame.y - red.y, red.radius, red.aspect, red.angle)
        np.minimum(nearest, away, out=nearest)
    flowing = border - np.float32(0.9 * skirt) * np.exp(-((nearest / 2.5) ** 2))
    dented: Field = np.maximum(flowing, np.float32(0.25) - nearest)
    return dented


def _cytoplasm(
    frame: Grid,
    cell: Morphology,
    border: Field,
    nucleus: Nucleus,
    body: Field,
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    """Return the densities (4, side, side) of the cell without its nucleus and granules."""
    layers = np.zeros((4, frame.side, frame.side), dtype=np.float32)
    coarse, fine = noise(frame, 0.55, rng), noise(frame, 0.16, rng)
    uneven = np.clip(1 + cell.mottle * (coarse + 0.7 * fine), 0.2, None)
    rim = np.exp(np.minimum(border, 0) / 0.8)
    pale = 1 - 0.92 * cell.hof * _hof(frame, cell, nucleus)
    whole = 1 - cell.smear
    layers[AZURE] = (cell.basophilia * pale + cell.edge * rim) * uneven * body * whole
    layers[EOSIN] = cell.acidophilia * uneven * body * whole
    layers[HEME] = cell.haemoglobin * body * (0.9 + 0.1 * rim)
    film = 0.035 * np.exp(-((border / 0.35) ** 2)) * whole
    layers[CHROMATIN] = film + body * cell.basophilia * 0.10 * pale * whole
    if cell.dust:
        grains = np.clip(0.5 + fine[::-1, ::-1], 0, 2.0)
        layers[CHROMATIN] += 0.060 * cell.dust * grains * body
        layers[EOSIN] += 0.085 * cell.dust * grains * body
    return layers


def _hof(frame: Grid, cell: Morphology, nucleus: Nucleus) -> Field:
    """Return 1 in the pale zone between the nucleus and the cell's middle, 0 far from it."""
    x0, y0 = nucleus.centre
    away = float(np.hypot(x0, y0)) + 1e-6
    reach = np.sqrt(cell.share) * cell.diameter / 2
    x, y = x0 - x0 / away * reach, y0 - y0 / away * reach
    zone = np.hypot(frame.x - np.float32(x), frame.y - np.float32(y)) / (0.19 * cell.diameter)
    collar = np.exp(-((np.maximum(nucleus.distance, 0) / 0.7) ** 2)) * 0.4
    pale: Field = np.maximum(np.exp(-(zone**2)), collar)
    return pale
