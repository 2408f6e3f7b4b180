"""What of a lab's cells a study leaves out is told to the lab, each cell once, by reason."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client.consent.exclusions import LeftOut
from client.consent.explanation import explain
from client.data.cache import prepare
from client.data.site_cells import used
from client.data.store import CellCache
from client.service.preflight_cells import look_at_cells
from client.site import open_site
from common.cell_types import CODES
from common.config.loading import dump
from common.config.study import CellSource, Site
from tests.client.lab import PRIVACY, TYPES, make_lab, study

PATIENTS = PRIVACY | {"unit": "patient"}


def relabelled(site: Path, rows: list[tuple[str, str]]) -> CellCache:
    """The lab's first images under other labels and patients, as its one source."""
    images = site.parent / "images"
    lines = [f"{at}.png,{label},{patient}" for at, (label, patient) in enumerate(rows)]
    (images / "cells.csv").write_text("\n".join(["path,label,patient", *lines]))
    (images / "notes.txt").touch()
    folder = prepare(images, 16)
    site.write_text(dump(Site(name="lab", cells=(CellSource(folder=folder),))))
    return CellCache.open(folder)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_lab(tmp_path_factory.mktemp("lab"))


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(
        st.tuples(st.sampled_from([*TYPES, "monocyte", "basophil"]), st.sampled_from(["", "p"])),
        min_size=1,
        max_size=40,
    ),
    st.sampled_from([PRIVACY, PATIENTS]),
)
def test_each_cell_is_used_or_left_out_for_one_reason(
    lab: Path, rows: list[tuple[str, str]], privacy: dict[str, object]
) -> None:
    cache, of = relabelled(lab, rows), study(privacy=privacy)
    outside = [label for label, _ in rows if label not in TYPES]
    unknown = [1 for label, patient in rows if label in TYPES and not patient]
    expected = [(len(outside), "of types outside the study")] if outside else []
    if unknown and privacy is PATIENTS:
        expected.append((len(unknown), "of unknown patients"))
    said = list(LeftOut.of(cache, of).sentences)
    for line, (number, words) in zip(said, expected, strict=True):
        assert line.startswith(f"{number} cell") and words in line
    assert sum(number for number, _ in expected) == LeftOut.of(cache, of).total
    assert LeftOut.of(cache, of).total == len(rows) - len(used(cache, of))
    for name in set(outside):
        assert f"{name} {outside.count(name)}" in said[0]


def test_a_person_who_approves_is_told(lab: Path) -> None:
    relabelled(lab, [("monocyte", "p"), ("monocyte", ""), ("lymphocyte", ""), ("lymphocyte", "p")])
    site = open_site(lab)
    said = dict(explain(site, study(privacy=PATIENTS), {"lab"}).topics)["your cells"]
    assert said.startswith("of 4 cells take part: ")
    assert "2 cells of types outside the study (monocyte 2)" in said
    assert "1 cell of unknown patients (the study has unit: patient)" in said
    every = dict(explain(site, study(cell_types=tuple(CODES)), {"lab"}).topics)["your cells"]
    assert "left out" not in every


def test_cells_that_are_gone_are_no_reason_to_say_nothing(lab: Path) -> None:
    gone = (CellSource(folder=lab.parent / "nowhere"),)
    explanation = explain(open_site(lab).model_copy(update={"cells": gone}), study(), {"lab"})
    assert dict(explanation.topics)["your cells"] == "not known: they cannot be opened"
    assert any("is not a cell cache" in str(one) for one in explanation.obstacles)


def test_a_check_says_what_the_index_passed_over_and_whose_patient_is_unknown(
    tmp_path: Path,
) -> None:
    site = make_lab(tmp_path)
    labels = [("lymphocyte", "p"), ("myeloblast", "NA"), ("monocyte", "q")]
    images = tmp_path / "images"
    lines = [f"{at}.png,{label},{patient}" for at, (label, patient) in enumerate(labels)]
    (images / "cells.csv").write_text("\n".join(["path,label,patient", *lines]))
    folder = prepare(images, 16, label_map={"monocyte": "skip"})
    site.write_text(dump(Site(name="lab", cells=(CellSource(folder=folder),))))
    _, said = look_at_cells(open_site(site))
    assert f"{folder}: its index passed over 1 left out by label_map" in said
    assert f"{folder}: 1 image of no known patient" in said
    assert np.array_equal(CellCache.open(folder).patients, ["p", ""])
