"""Which cells a simulation is made of: the folder that was given, under the names given for it."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.errors import DataError
from simulations.config import DataSpec, Rendered
from simulations.labs import gather
from simulations.synthetic import SiteSpec, synthesize
from simulations.synthetic.site_style import STYLES


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
