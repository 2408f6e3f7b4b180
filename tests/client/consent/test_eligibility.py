"""What a lab is told of its cells before it says yes to a study."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from client.consent.eligibility import TakingPart, taking_part
from client.data.cache import prepare
from client.data.site_cells import open_cells
from client.data.splits import SPLITS
from client.site import open_site
from common.config.loading import dump
from common.config.study import CellSource, Participant, Site, Study
from tests.client.lab import PRIVACY, TYPES, study

PATIENTS = PRIVACY | {"unit": "patient"}


def lab(folder: Path, rows: list[tuple[str, str, str]]) -> Site:
    """A site of cells of (type, patient, split)."""
    (folder / "images").mkdir(parents=True)
    lines = ["path,label,patient,split"]
    for number, (label, patient, split) in enumerate(rows):
        pixels = np.full((16, 16, 3), number % 200, np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{number}.png")
        lines.append(f"{number}.png,{label},{patient},{split}")
    (folder / "images" / "cells.csv").write_text("\n".join(lines))
    site = Site(name="lab", cells=(CellSource(folder=prepare(folder / "images", 16)),))
    (folder / "site.yaml").write_text(dump(site))
    return open_site(folder / "site.yaml")


def mixed(folder: Path) -> Site:
    """60 cells of ten patients, 15 of unknown ones, and 5 of a type that studies leave out."""
    known = [(TYPES[n % 2], f"p{n % 10}", "") for n in range(60)]
    unknown = [(TYPES[n % 2], "", "") for n in range(15)]
    return lab(folder, known + unknown + [("basophil", "p1", "")] * 5)


@pytest.mark.parametrize(
    ("privacy", "left_out"), [({}, (5, 0)), (PRIVACY, (5, 0)), (PATIENTS, (5, 15))]
)
def test_every_cell_is_counted_once_with_the_reason_why_it_is_left_out(
    tmp_path: Path, privacy: dict[str, Any], left_out: tuple[int, int]
) -> None:
    site, of = mixed(tmp_path), study(privacy=privacy)
    told, cells = taking_part(site, of), open_cells(site, of)
    assert (told.left_out.types.total(), told.left_out.unknown) == left_out
    assert sum(told.cells.values()) + sum(left_out) == 80
    for split in SPLITS:
        assert told.cells[split] == len(cells.rows(split))
        assert sum(kind[split] for kind in told.types.values()) == told.cells[split]
    patients = privacy.get("unit") == "patient"
    train = cells.rows("train")
    units = len(set(cells.units[train].tolist())) if patients else len(train)
    assert told.units["train"] == units
    assert "5 cells of types outside the study (basophil 5)" in told.words
    assert ("15 cells of unknown patients" in told.words) == patients


def test_cells_that_name_no_patient_take_no_part_where_patients_are_protected(
    tmp_path: Path,
) -> None:
    """30 rounds went by, epsilon 2.98 was spent, and no cell had trained."""
    site = lab(tmp_path, [(TYPES[n % 2], "", "") for n in range(12)])
    told = taking_part(site, study(privacy=PATIENTS))
    assert told.nothing and "of 12 cells nobody has said whose they are" in told.nothing
    assert "column `patient`" in told.nothing and "`unit: image`" in told.nothing
    assert taking_part(site, study()).nothing is None


@pytest.mark.parametrize(
    ("role", "split", "nothing"),
    [
        ("train", "train", None),
        ("train", "test", "can train"),
        ("test", "train", "can be tested on"),
        ("test", "test", None),
        ("held_out", "train", None),
    ],
)
def test_a_site_needs_cells_for_the_part_that_it_takes(
    tmp_path: Path, role: Any, split: str, nothing: str | None
) -> None:
    site = lab(tmp_path, [(TYPES[n % 2], f"p{n}", split) for n in range(6)])
    cohort = {"lab": Participant(role=role, units=6), "other": Participant(units=5)}
    told = taking_part(site, study(cohort=cohort))
    assert (told.nothing is None) == (nothing is None)
    assert nothing is None or nothing in str(told.nothing)
    if role == "held_out":
        assert told.cells == {"train": 0, "validation": 0, "test": 6}


@pytest.mark.parametrize(
    ("declared", "said"),
    [(9, None), (10, None), (12, None), (8, "too long"), (13, "too short"), (0, "too long")],
)
def test_a_declared_number_may_be_a_fifth_off(
    tmp_path: Path, declared: int, said: str | None
) -> None:
    site = lab(tmp_path, [(TYPES[n % 2], f"p{n}", "train") for n in range(10)])
    of: Study = study(cohort={"lab": Participant(units=declared)})
    told: TakingPart = taking_part(site, of)
    assert (told.differs is None) == (said is None)
    assert said is None or said in str(told.differs)


def test_the_types_are_told_by_split(tmp_path: Path) -> None:
    rows = [(TYPES[0], f"p{n}", "train") for n in range(4)] + [(TYPES[1], "q", "test")] * 2
    told = taking_part(lab(tmp_path, rows), study())
    assert told.by_type == "myeloblast 4/0/0, lymphocyte 0/0/2"
