"""Single pictures: shape, determinism, and that a type looks like itself."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from common.cell_types import CELL_TYPES
from simulations.synthetic import STYLES, Patient, SiteStyle, contact_sheet, render_cell
from simulations.synthetic import nucleus as nuclei
from simulations.synthetic.fields import grid, noise
from simulations.synthetic.forms import FORMS, MATURING
from simulations.synthetic.morphology import Morphology, blend, draw

NAMES = [cell.name for cell in CELL_TYPES]
PLAIN = SiteStyle(noise=0.0, blur=0.02, focus_spread=0.0, tilt=0.0, crowding=0.0)


def picture(name: str, seed: int, style: SiteStyle = PLAIN, side: int = 64) -> NDArray[np.uint8]:
    return render_cell(name, style, Patient(platelets=0.0), np.random.default_rng(seed), side)


def test_every_type_has_a_form_of_known_fields() -> None:
    known = {field.name for field in dataclasses.fields(Morphology)}
    assert set(FORMS) == set(NAMES)
    for name, form in FORMS.items():
        assert set(form) <= known, name
        assert all(low <= high for low, high in form.values()), name


@settings(max_examples=40)
@given(
    name=st.sampled_from(NAMES),
    site=st.sampled_from(list(STYLES)),
    side=st.integers(16, 130),
    seed=st.integers(0, 2**63 - 1),
)
def test_any_cell_is_a_picture_and_its_seed_decides_it(
    name: str, site: str, side: int, seed: int
) -> None:
    once, again = (
        render_cell(
            name,
            STYLES[site],
            Patient.random(np.random.default_rng(seed)),
            np.random.default_rng(seed),
            side,
        )
        for _ in range(2)
    )
    assert once.shape == (side, side, 3)
    assert once.dtype == np.uint8
    assert once.std() > 4
    np.testing.assert_array_equal(once, again)


@settings(max_examples=60)
@given(name=st.sampled_from(NAMES), seed=st.integers(0, 2**32))
def test_drawn_morphology_is_finite_and_in_its_bounds(name: str, seed: int) -> None:
    cell = draw(name, Patient(), np.random.default_rng(seed))
    values = dataclasses.asdict(cell)
    assert all(np.isfinite(value) and value >= 0 for value in values.values())
    assert cell.share <= 0.93
    assert cell.aspect >= 1
    for count in ("nucleoli", "azurophil", "orange", "dark", "vacuoles", "rods", "hairs"):
        assert values[count] == int(values[count])


def test_a_nucleus_has_the_area_its_morphology_says() -> None:
    frame = grid(192)
    flat = (np.zeros_like(frame.x), np.zeros_like(frame.x))
    for elongation, bend, pinch in ((0.0, 0.0, 0.0), (2.0, 1.0, 0.0), (7.0, 2.5, 0.3)):
        cell = Morphology(
            diameter=15, share=0.3, elongation=elongation, bend=bend, pinch=pinch, ragged=0.0
        )
        border = np.hypot(frame.x, frame.y) - 7.5
        for seed in range(4):
            shape = nuclei.outline(frame, cell, border, flat, np.random.default_rng(seed))
            area = float((shape.distance < 0).sum()) * frame.pixel**2
            assert area == pytest.approx(0.3 * np.pi * 7.5**2, rel=0.2)


def test_segmented_nuclei_narrow_between_lobes_and_bands_do_not() -> None:
    band = [draw("neutrophil_band", Patient(), np.random.default_rng(s)).pinch for s in range(400)]
    segmented = [
        draw("neutrophil_segmented", Patient(), np.random.default_rng(s)).pinch for s in range(400)
    ]
    assert np.median(band) < 0.35 < 0.6 < np.median(segmented)
    assert max(band) > min(segmented), "neighbours in the series overlap"


def test_blend_meets_its_ends_and_uses_defaults() -> None:
    first, second = FORMS[MATURING[3]], FORMS[MATURING[4]]
    for part, end in ((0.0, first), (1.0, second)):
        mixed = blend(first, second, part)
        for name, bounds in end.items():
            assert mixed[name] == pytest.approx(bounds)
    assert blend({"rods": (2.0, 4.0)}, {}, 0.5)["rods"] == (1.0, 2.0)


def mean_colour(name: str, inside: float = 3.5) -> NDArray[np.float64]:
    frame = grid(64)
    disc = np.hypot(frame.x, frame.y) < inside
    mean: NDArray[np.float64] = np.mean([picture(name, s)[disc].mean(axis=0) for s in range(12)], 0)
    return mean


def test_colours_are_those_of_the_stain() -> None:
    red, green, blue = mean_colour("eosinophil", 5.0)
    assert red > blue > green * 0.9, "orange granules"
    red, _, blue = mean_colour("plasma_cell", 5.0)
    assert blue > red + 15, "deep blue cytoplasm"
    assert mean_colour("basophil").sum() < mean_colour("hairy_cell").sum(), "dark granules"


def cell_area(name: str) -> float:
    """um^2 that differ from the empty background, median of 15."""
    areas = []
    for seed in range(15):
        shot = picture(name, seed).astype(np.float64)
        background = np.median(shot[:4].reshape(-1, 3), axis=0)
        areas.append((np.abs(shot - background).sum(axis=2) > 40).sum() * grid(64).pixel ** 2)
    return float(np.median(areas))


def test_sizes_are_ordered_as_on_a_slide() -> None:
    small, middle, large = (
        cell_area(name) for name in ("lymphocyte", "neutrophil_segmented", "promyelocyte")
    )
    assert small < middle < large
    assert 40 < small < 110, "8 to 11.5 um across"
    assert 90 < middle < 180, "11.5 to 14.5 um across"


def test_sites_differ_more_than_cells_of_a_site() -> None:
    means = {
        site: np.array([picture("monocyte", s, style).mean(axis=(0, 1)) for s in range(8)])
        for site, style in STYLES.items()
    }
    for one, here in means.items():
        for other, there in means.items():
            if one != other:
                apart = np.linalg.norm(here.mean(axis=0) - there.mean(axis=0))
                assert apart > 2 * max(here.std(axis=0).max(), there.std(axis=0).max())


@settings(max_examples=20)
@given(seed=st.integers(0, 2**32))
def test_random_styles_are_reproducible_and_usable(seed: int) -> None:
    style = SiteStyle.random(seed)
    assert style == SiteStyle.random(seed)
    assert max(style.white) <= 1
    shot = picture("lymphocyte", seed, style, side=32)
    assert shot[12:20, 12:20].mean() < np.median(shot) + 8, "the nucleus is darker than the rest"


@settings(max_examples=15)
@given(side=st.integers(32, 128), scale=st.floats(0.2, 1.5))
def test_noise_has_unit_variance_whatever_the_side(side: int, scale: float) -> None:
    fields = [noise(grid(side), scale, np.random.default_rng(seed)) for seed in range(12)]
    assert np.mean([field.var() for field in fields]) == pytest.approx(1, abs=0.25)
    assert abs(np.mean(fields)) < 1e-3


def test_contact_sheet_shows_all_types_at_all_sites(tmp_path: Path) -> None:
    file = tmp_path / "sheet.png"
    contact_sheet(file, each=1, side=24)
    with Image.open(file) as sheet:
        assert sheet.format == "PNG"
        assert sheet.height >= 18 * 24
        assert sheet.width >= 5 * 24
