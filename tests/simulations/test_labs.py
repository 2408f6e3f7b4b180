"""Which cells a simulation is made of: the folder that was given, under the names given for it."""

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from client.data.folder_tree import read_tree
from common.errors import DataError
from simulations.config import DataSpec, Rendered
from simulations.labs import gather, located, studied
from simulations.progress import Terminal
from simulations.synthetic import SiteSpec, synthesize
from simulations.synthetic.site_style import STYLES
from tests.client.lab import PRIVACY, study


def write_cells(folder: Path, names: tuple[str, ...]) -> None:
    for number, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        pixels = np.full((20, 20, 3), 40 * number, np.uint8)
        Image.fromarray(pixels).save(folder / name / "cell.png")


def test_labs_own_names_are_mapped(tmp_path: Path) -> None:
    write_cells(tmp_path / "lab", ("Mono", "monocyte", "Müll"))
    spec = DataSpec(source="images", root=tmp_path)
    with pytest.raises(DataError, match=r"'Mono' .1 image.: perhaps monocyte"):
        gather(spec, 16, 0, lambda *_: None)
    named = spec.model_copy(update={"label_map": {"Mono": "monocyte", "Müll": "skip"}})
    labs = gather(named, 16, 0, lambda *_: None)
    assert len(labs.caches["lab"]) == 2 and len(set(labs.caches["lab"].labels)) == 1


def test_a_rendered_lab_stays_rendered_wherever_it_is_copied(tmp_path: Path) -> None:
    drawn, real = tmp_path / "drawn", tmp_path / "real"
    sites = {"north": SiteSpec(style=STYLES["slate"], cells=4)}
    synthesize(drawn, sites=sites, seed=1, side=24, workers=1)
    write_cells(real / "south", ("monocyte",))
    spec = DataSpec(source="images", root=real)
    assert gather(spec, 16, 0, lambda *_: None).kind == "images"
    shutil.copytree(drawn / "north", real / "north")
    assert gather(spec, 16, 0, lambda *_: None).kind == "rendered"
    alone = spec.model_copy(update={"root": drawn / "north"})
    assert gather(alone, 16, 0, lambda *_: None).kind == "rendered"


def test_data_means_images_even_where_the_config_renders(tmp_path: Path) -> None:
    from typer import Typer
    from typer.testing import CliRunner

    from simulations.cli import simulate

    app = Typer()
    app.command()(simulate)
    words = ["quickstart", "--data", str(tmp_path), "--out", str(tmp_path / "run")]
    found = CliRunner().invoke(app, words)
    assert isinstance(found.exception, DataError) and str(tmp_path) in str(found.exception)


def test_one_lab_is_known_by_its_own_names_too(tmp_path: Path) -> None:
    write_cells(tmp_path / "mine", ("segs", "monos"))
    named = {"segs": "neutrophil_segmented", "monos": "monocyte"}
    spec = DataSpec(source="images", root=tmp_path / "mine", label_map=named)
    assert list(gather(spec, 16, 0, lambda *_: None).caches) == ["mine"]


@pytest.mark.parametrize(
    "names",
    [("train", "val", "test"), ("Train", "Testing"), ("train", "test", "extra"), ("train",)],
)
def test_folders_called_as_splits_are_no_labs(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in names:
        write_cells(tmp_path / name, ("monocyte", "basophil"))
    spec = DataSpec(source="images", root=tmp_path)
    for use in (lambda: located(spec), lambda: gather(spec, 16, 0, lambda *_: None)):
        with pytest.raises(DataError, match=r"splits of one lab, .*--print-csv > .*labs' names"):
            use()


def test_folders_called_as_patients_are_no_labs(tmp_path: Path) -> None:
    for name in ("Patient_01", "Patient_02"):
        write_cells(tmp_path / name, ("monocyte",))
    with pytest.raises(DataError, match=r"Patient_01, Patient_02. If they are patients of one lab"):
        located(DataSpec(source="images", root=tmp_path))


def test_a_lab_may_be_called_so_among_others(tmp_path: Path) -> None:
    for name in ("test", "ulm", "p1"):
        write_cells(tmp_path / name, ("monocyte",))
    labs = gather(DataSpec(source="images", root=tmp_path), 16, 0, lambda *_: None)
    assert sorted(labs.caches) == ["p1", "test", "ulm"]


def test_where_the_table_says_so_they_are_splits(tmp_path: Path) -> None:
    for name in ("train", "val", "test"):
        write_cells(tmp_path / "lab" / name, ("monocyte", "basophil"))
    lines = (
        "path,label,patient,split",
        *(",".join(row) for row in read_tree(tmp_path / "lab").rows),
    )
    (tmp_path / "lab" / "cells.csv").write_text("\n".join(lines))
    for root in (tmp_path, tmp_path / "lab"):
        cache = gather(DataSpec(source="images", root=root), 16, 0, lambda *_: None).caches["lab"]
        assert Counter(cache.splits.tolist()) == {"train": 2, "validation": 2, "test": 2}


def test_what_is_left_out_is_said_of_each_lab(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for lab in ("ulm", "bonn"):
        write_cells(tmp_path / lab, ("monocyte", "basophil", "dirt"))
    (tmp_path / "ulm" / "monocyte" / "notes.txt").touch()
    (tmp_path / "bonn" / "cells.csv").write_text(
        "path,label,patient,scanner\nmonocyte/cell.png,monocyte,p,x\nbasophil/cell.png,basophil,q,x\n"
        "dirt/cell.png,monocyte,NA,x\n"
    )
    scales = {"ulm": 1.0, "bonn": 1.0}
    spec = DataSpec(source="images", root=tmp_path, label_map={"dirt": "skip"}, um_per_px=scales)
    gathered = gather(spec, 16, 0, lambda *_: None)
    of = study(cell_types=("monocyte", "eosinophil"))
    patients = study(cell_types=of.cell_types, privacy=PRIVACY | {"unit": "patient"})
    with pytest.raises(DataError, match="lab ulm: of its 2 cells the study uses none"):
        studied(gathered, patients)
    labs = studied(gathered, of)
    assert labs.said == {
        "bonn": (
            "columns that are not used: scanner",
            "label_map: no image is called dirt",
            "left out: 1 cell of types outside the study (basophil 1)",
        ),
        "ulm": (
            "1 file passed over: left out by label_map",
            "1 file passed over: not an image",
            "left out: 1 cell of types outside the study (basophil 1)",
        ),
    }
    del gathered.caches["ulm"]
    assert studied(gathered, patients).said["bonn"][2:] == (
        "left out: 1 cell of types outside the study (basophil 1)",
        "left out: 1 cell of unknown patients (the study has unit: patient)",
    )
    Terminal(Console(width=200)).gathered(labs)
    assert "bonn: left out: 1 cell of types outside the study" in capsys.readouterr().out


def test_a_wrong_label_map_is_named(tmp_path: Path) -> None:
    for wrong in ({"": "monocyte"}, {"a": "b"}, {"LY": "monocyte", "ly": "lymphocyte"}):
        with pytest.raises(ValueError, match="label_map: "):
            DataSpec(source="images", root=tmp_path, label_map=wrong)


def test_what_is_of_images_is_refused_for_rendered_cells() -> None:
    with pytest.raises(ValueError, match="source is rendered: set source to images"):
        DataSpec(root=Path("cells"))


def test_rendered_labs_have_the_scale_that_they_are_drawn_at() -> None:
    spec = DataSpec(source="rendered", rendered=Rendered(sites=1, cells=18, side=50))
    (cache,) = gather(spec, 16, 0, lambda *_: None, field_um=30.0).caches.values()
    assert (cache.meta["um_per_px"], cache.meta["field_um"]) == (0.5, 30.0)


def test_rendered_labs_are_given_no_scale() -> None:
    with pytest.raises(ValueError, match="um_per_px are of images, and source is rendered"):
        DataSpec(source="rendered", um_per_px={"north": 0.1})


def test_a_lab_without_a_scale_is_said_to_have_none(tmp_path: Path) -> None:
    write_cells(tmp_path / "lab", ("monocyte",))
    spec = DataSpec(source="images", root=tmp_path)
    (said,) = gather(spec, 16, 0, lambda *_: None).said["lab"]
    assert said.startswith("the scale is not known (data.um_per_px): each whole picture is taken")
