"""A site's cells as a study sees them: whose split and unit each is, and that others move none."""

from pathlib import Path

import numpy as np
import pytest

from client.data.cache import prepare
from client.data.site_cells import SiteCells, open_cells
from client.site import open_site
from common.config.study import CellSource, Participant, Site, Study
from common.errors import DataError
from tests.client.lab import PRIVACY, make_lab, study

PATIENTS = PRIVACY | {"unit": "patient"}


def without(site: Path, patient: str) -> Path:
    """The lab's site.yaml once the patient's cells are gone from its table."""
    table = site.parent / "images" / "cells.csv"
    lines = table.read_text().splitlines()
    table.write_text("\n".join(line for line in lines if not line.endswith(f",{patient}")))
    cache = prepare(site.parent / "images", 16)
    site.write_text(Site(name="lab", cells=(CellSource(folder=cache),)).model_dump_json())
    return site


def split_by_name(site: Path, of: Study) -> dict[str, str]:
    cells = open_cells(open_site(site), of)
    names = np.concatenate([part.sources for part in cells.parts])
    return dict(zip(names.tolist(), cells.splits.tolist(), strict=True))


@pytest.mark.parametrize("privacy", [PRIVACY, PATIENTS])
@pytest.mark.parametrize("seed", range(4))
def test_under_privacy_one_patient_less_moves_nobody_elses_cells(
    tmp_path: Path, privacy: dict[str, object], seed: int
) -> None:
    of = study(privacy=privacy, seed=seed)
    site = make_lab(tmp_path, cells=60)
    before = split_by_name(site, of)
    after = split_by_name(without(site, "p3"), of)
    assert len(before) == 60 and len(after) == 54
    assert after == {name: before[name] for name in after}


def opened(tmp_path: Path, **changes: object) -> SiteCells:
    return open_cells(open_site(make_lab(tmp_path, cells=40)), study(**changes))


def test_a_patients_cells_are_one_unit_and_in_one_split(tmp_path: Path) -> None:
    cells = opened(tmp_path, privacy=PATIENTS)
    patients = np.concatenate([part.patients for part in cells.parts])
    for patient in np.unique(patients):
        assert len(np.unique(cells.units[patients == patient])) == 1
        assert len(np.unique(cells.splits[patients == patient])) == 1
    assert len(np.unique(cells.units)) == 10


def test_a_split_is_its_own_cells_and_a_held_out_sites_all_of_them(tmp_path: Path) -> None:
    cells = opened(tmp_path / "a")
    rows = [cells.rows(split) for split in ("train", "validation", "test")]
    assert sorted(np.concatenate(rows).tolist()) == list(range(40))
    assert all((cells.splits[found] == split).all() for found, split in zip(
        rows, ("train", "validation", "test"), strict=True
    ))  # fmt: skip
    cohort = {"lab": Participant(role="held_out"), "other": Participant(units=20)}
    held = opened(tmp_path / "b", cohort=cohort)
    assert held.rows("test").tolist() == list(range(40))


def test_a_cache_of_another_field_of_view_is_refused_with_what_to_do(tmp_path: Path) -> None:
    site = make_lab(tmp_path)
    cache = prepare(site.parent / "images", 16, um_per_px=1.0, field_um=20.0)
    site.write_text(Site(name="lab", cells=(CellSource(folder=cache),)).model_dump_json())
    with pytest.raises(
        DataError, match=r"show 20 um, the study asks for 25; .* --um-per-px 1 --field-um 25"
    ):
        open_cells(open_site(site), study())
    assert len(open_cells(open_site(site), study(field_um=20.0)).labels) == 40
