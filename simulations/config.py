"""A simulation's YAML: a study, the cells that it runs on, and how they are dealt to sites."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from common.cell_types import LabelMap
from common.config.loading import assign, merge, parse, read_yaml
from common.config.study import Runtime, Strict, Study


class Rendered(Strict):
    """Smears rendered for the run; each lab has its own stain and class mix."""

    sites: int = Field(default=5, ge=1, le=1000)
    cells: int = Field(default=600, ge=18, le=1_000_000)
    """The number of cells per lab."""
    side: int = Field(default=96, ge=32, le=512)
    """The side of a rendered picture in pixels; it shows 25 um."""
    alpha: float = Field(default=2.0, gt=0, le=1000)
    """The Dirichlet concentration of a lab's class mix; if it is small, each lab sees few types."""


class DataSpec(Strict):
    """Where the cells come from."""

    source: Literal["rendered", "images"] = "rendered"
    rendered: Rendered = Rendered()
    root: Path | None = None
    """For "images": a folder with one folder per lab, or one lab's folder. Without it, `--data` or
    HEMOFED_DATA names it."""
    label_map: LabelMap = {}
    """A lab's own name of a cell type -> MLL23's name, or "skip" to leave these images out."""
    um_per_px: dict[str, float] = {}
    """Lab -> the scale of its images in micrometres per pixel. If it is unknown, the whole image
    becomes the cell's square."""

    @model_validator(mode="after")
    def _of_images(self) -> Self:
        if self.source == "rendered" and (self.root or self.label_map or self.um_per_px):
            raise ValueError(
                "root, label_map and um_per_px are of images, and source is rendered: set source "
                "to images (--data DIR does), or leave them out"
            )
        return self


class Deal(Strict):
    """How cells are dealt to sites; a patient's cells stay together."""

    scheme: Literal["iid", "dirichlet", "quantity"] = "iid"
    sites: int = Field(default=5, ge=1, le=10000)
    alpha: float = Field(default=0.5, gt=0, le=1000)
    """The Dirichlet concentration. For "dirichlet", of each class over the sites (Hsu et al.,
    arXiv 1909.06335); for "quantity", of the sites' sizes."""


class PartitionSpec(Strict):
    """Each lab is one site, unless the labs are pooled or some are split."""

    pool: Deal | None = None
    """How the cells of all labs together are dealt to sites; None if the labs are not pooled."""
    split: dict[str, Deal] = {}
    """Lab -> how its cells are dealt to several sites."""
    held_out: tuple[str, ...] = ()
    """Labs that never train; the model is evaluated on all their cells."""
    min_cells: int = Field(default=10, ge=1)
    """The fewest cells that a site may be dealt."""
    weighting: Literal["size", "sqrt", "equal"] = "size"
    """A site's weight in the aggregation: its declared size, the square root of it, or 1."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.pool and (self.split or self.held_out):
            raise ValueError("pool deals all labs together; then split and held_out mean nothing")
        return self


class Simulation(Strict):
    """Everything that a simulated run depends on; its resolved form is the run's config.yaml."""

    study: Study
    data: DataSpec = DataSpec()
    partition: PartitionSpec = PartitionSpec()
    baselines: tuple[Literal["local_only", "centralised"], ...] = ("local_only", "centralised")
    """What the federation is compared with. Each baseline is trained for the same number of rounds
    and steps, under the same privacy."""
    runtime: Runtime = Runtime()


def read(path: Path, settings: list[str], data: Path | None = None) -> Simulation:
    """Read a simulation's YAML.

    Args:
        path: the YAML.
        settings: `--set` assignments, applied in order. `variant=NAME` lays the file's
            `variants.NAME` over it; any other key is a path into the file.
        data: the folder of the images to use; None for the cells that the file names.

    Raises:
        ConfigError: a key, value or variant does not exist.
    """
    content = assign(read_yaml(path), settings, str(path))
    if data is not None:
        content = merge(content, {"data": {"source": "images", "root": data}})
    return parse(Simulation, content, str(path), settings)
