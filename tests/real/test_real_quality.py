"""What the check finds in the labs' real folders, seen by eye to be so."""

from pathlib import Path

import pytest

from client.data.listing import listing
from client.data.quality import floors
from client.data.quality.check import check
from client.data.quality.measurements import measure_all


def test_chula_has_a_speck_and_mirrored_copies(real_cells: Path) -> None:
    result = check(real_cells / "chula")
    found = {finding.code: finding for finding in result.findings}
    assert result.exit_code == 10
    assert "lymphocyte/lymphocyte_0045.jpg" in found["size"].files, "5 x 5 px"
    groups = {case.files: case.note for case in found["near-duplicate"].cases}
    mirrored = ("monocyte/monocyte_0065.jpg", "monocyte/monocyte_0087.jpg")
    assert groups[mirrored] == "mirrored or rotated"


@pytest.mark.parametrize("lab", ["bccd", "cellavision_blog", "tecom_jiangxi"])
def test_the_other_small_labs_have_no_failure(real_cells: Path, lab: str) -> None:
    assert check(real_cells / lab).exit_code == 10


def test_stains_of_the_same_scanner_are_near_and_of_others_far(real_cells: Path) -> None:
    reference = real_cells / "cellavision_blog"
    far = check(real_cells / "tecom_jiangxi", reference=reference)
    assert far.drift and far.drift.nucleus > 15
    assert "stain-drift" in [finding.code for finding in far.findings]
    same = check(reference, reference=reference)
    assert same.drift and same.drift.nucleus == 0


@pytest.mark.parametrize("lab", ["bccd", "cellavision_blog", "chula", "tecom_jiangxi"])
def test_hardly_a_real_cell_lies_under_a_floor(real_cells: Path, lab: str) -> None:
    """None is too dark or grey; two nuclei are counted in 2 of 100 at most."""
    entries = listing(real_cells / lab).entries
    found = floors.findings(entries, measure_all([str(entry.path) for entry in entries]))
    assert {finding.code for finding in found} <= {"several-cells"}
    assert sum(len(finding.cases) for finding in found) <= 0.02 * len(entries)
