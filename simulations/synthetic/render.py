"""Renders one cell, or a contact sheet of all cell types at all sites."""

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from common.cell_types import CELL_TYPES
from common.files import replacing
from simulations.synthetic import leukocyte, morphology, smear
from simulations.synthetic.fields import grid
from simulations.synthetic.patient import Patient
from simulations.synthetic.site_style import STYLES, SiteStyle, develop


def render_cell(
    cell_type: str, style: SiteStyle, patient: Patient, rng: np.random.Generator, side: int
) -> NDArray[np.uint8]:
    """Return a picture (side, side, 3) of a random cell of `cell_type`; its edge is 25 um.

    The picture is the camera's, before it is stored as a JPEG.
    """
    frame = grid(side)
    cell = morphology.draw(cell_type, patient, rng)
    scene = np.zeros((4, side, side), dtype=np.float32)
    smear.paint_plasma(scene, frame, rng)
    radius = cell.diameter / 2
    red_cells = smear.scatter(radius, style.crowding, patient, rng)
    smear.paint_red_cells(scene, frame, red_cells, rng)
    smear.paint_platelets(scene, frame, radius, patient, rng)
    leukocyte.paint(scene, frame, cell, red_cells, rng)
    scene *= np.float32(patient.stain)
    scene *= np.exp(np.float32(patient.acidity) * _ACIDITY)
    return develop(scene, style, rng)


_ACIDITY = np.array([-0.4, -1.0, 1.0, 0.6], dtype=np.float32)[:, None, None]
"""How an acid buffer changes the densities of chromatin, azure, eosin and haemoglobin: the change
of their logarithms per unit of `Patient.acidity`."""


def encode(picture: NDArray[np.uint8], style: SiteStyle) -> bytes:
    """Return the bytes of the JPEG in which the site stores the picture."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=style.jpeg_quality)
    return buffer.getvalue()


def contact_sheet(
    path: Path,
    *,
    styles: Mapping[str, SiteStyle] = STYLES,
    each: int = 2,
    side: int = 96,
    seed: int = 0,
) -> None:
    """Write a PNG with a row for each cell type and `each` cells for each site, as stored there.

    side: pixels along the edge of a cell's picture.
    """
    label, header = 190, 20
    width = label + len(styles) * each * side
    sheet = Image.new("RGB", (width, header + len(CELL_TYPES) * side), "white")
    pen = ImageDraw.Draw(sheet)
    for column, (site, style) in enumerate(styles.items()):
        pen.text((label + column * each * side + 4, 4), site, fill="black")
        for row, cell in enumerate(CELL_TYPES):
            if column == 0:
                pen.text((4, header + row * side + side // 2 - 6), cell.name, fill="black")
            for copy in range(each):
                rng = np.random.default_rng([seed, column, row, copy])
                picture = render_cell(cell.name, style, Patient.random(rng), rng, side)
                stored = Image.open(io.BytesIO(encode(picture, style)))
                sheet.paste(stored, (label + (column * each + copy) * side, header + row * side))
    with replacing(path) as temporary:
        sheet.save(temporary, "PNG")
