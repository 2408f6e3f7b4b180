"""The benchmark of `data check` measures what it says: pictures that are one, and that are not."""

from pathlib import Path

from client.data.quality.check import check
from simulations.bench.check import near_identical, unlike, write


def test_near_identical_pictures_are_one_group_and_the_others_none(tmp_path: Path) -> None:
    write(tmp_path / "same", near_identical(90))
    write(tmp_path / "others", unlike(90))
    found = {finding.code: finding for finding in check(tmp_path / "same").findings}
    (case,) = found["near-duplicate-two-labels"].cases
    assert len(case.files) == 90
    assert not any("duplicate" in one.code for one in check(tmp_path / "others").findings)
