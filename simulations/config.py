"""A simulation's YAML: a study, the cells it plays with, and how they are dealt to sites."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from common.cell_types import LabelMap
from common.config.loading import assign, merge, parse, read_yaml
from common.config.study import Runtime, Strict, Study


class Rendered(Strict):
    """Smears rendered for the run: labs with stains and class mixes of their own."""

    sites: int = Field(default=5, ge=1, le=1000)
    cells: int = Field(default=600, ge=18, le=1_000_000)
    """Cells a lab."""
    side: int = Field(default=96, ge=32, le=512)
    """Pixels of a rendered picture (25 um)."""
    alpha: float = Field(default=2.0, gt=0, le=1000)
    """Dirichlet concentration of a lab's class mix; small: each lab sees few types."""


class DataSpec(Strict):
    """Where the cells come from."""

    source: Literal["rendered", "images"] = "rendered"
    rendered: Rendered = Rendered()
    root: Path | None = None
    """images: a folder with one folder a lab, or one lab's folder; `--data` or HEMOFED_DATA."""
    label_map: LabelMap = {}
    """Labs' own names for cell types -> MLL23's, or "skip" for images to leave out."""
    um_per_px: dict[str, float] = {}
    """Lab -> physical scale of its images; unknown: the whole image becomes the square."""

    @model_validator(mode="after")
    def _of_images(self) -> Self:
        if self.source == "rendered" and (self.root or self.label_map or self.um_per_px):
            raise ValueError(
                "root, label_map and um_per_px are of images, and source is rendered: set source "
                "to images (--data DIR does), or leave them out"
            )
        return self


class Deal(Strict):
    """How cells are dealt to sites; patients stay whole."""

    scheme: Literal["iid", "dirichlet", "quantity"] = "iid"
    sites: int = Field(default=5, ge=1, le=10000)
    alpha: float = Field(default=0.5, gt=0, le=1000)
    """dirichlet: concentration of each class over the sites (Hsu et al., arXiv 1909.06335);
    quantity: of the sites' sizes."""


class PartitionSpec(Strict):
    """One site a lab, unless the labs are pooled or some are dealt further."""

    pool: Deal | None = None
    """All labs' cells together, dealt to sites."""
    split: dict[str, Deal] = {}
    """Lab -> how its cells are dealt to several sites."""
    held_out: tuple[str, ...] = ()
    """Labs that never train: the model is evaluated on all their cells."""
    min_cells: int = Field(default=10, ge=1)
    """Fewest cells a site may be dealt."""
    weighting: Literal["size", "sqrt", "equal"] = "size"
    """Weight of a site in the aggregation, by its declared size."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.pool and (self.split or self.held_out):
            raise ValueError("pool deals all labs together; then split and held_out mean nothing")
        return self


class Simulation(Strict):
    """Everything a simulated run depends on; its resolved form is the run's config.yaml."""

    study: Study
    data: DataSpec = DataSpec()
    partition: PartitionSpec = PartitionSpec()
    baselines: tuple[Literal["local_only", "centralised"], ...] = ("local_only", "centralised")
    """What the federation is compared with: each trained for as many rounds and steps, under as
    much privacy."""
    runtime: Runtime = Runtime()


def read(path: Path, settings: list[str], data: Path | None = None) -> Simulation:
    """The simulation in `path` with `--set` assignments applied in order, on the images in `data`.

    `variant=NAME` lays the file's `variants.NAME` over it; any other key is a path into the file.
    Raises ConfigError: a key, value or variant that does not exist.
    """
    content = assign(read_yaml(path), settings, str(path))
    if data is not None:
        content = merge(content, {"data": {"source": "images", "root": data}})
    return parse(Simulation, content, str(path), settings)
