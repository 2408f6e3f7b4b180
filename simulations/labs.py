"""Gathers the labs' cells for a simulation, rendered or real, into one cell cache per lab."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from shlex import quote

from client.consent.exclusions import LeftOut
from client.data.cache import Geometry, default_root, keep
from client.data.index import Index, scan
from client.data.listing import SPLITS
from client.data.patient_names import is_patient
from client.data.site_cells import used
from client.data.source_files import TABLE
from client.data.store import CellCache
from common.cell_types import known_as
from common.config.study import Study
from common.errors import ConfigError, DataError
from common.field_of_view import FIELD_UM
from common.text import count
from simulations.config import DataSpec, Rendered
from simulations.synthetic import VERSION, is_rendered

DATA_VARIABLE = "HEMOFED_DATA"
"""The environment variable that names the labs' folder if the config does not."""

Progress = Callable[[str, int, int], None]
"""Called with (what is being done, the number done, the number in all)."""


@dataclass(frozen=True)
class Labs:
    """The labs' cells."""

    caches: dict[str, CellCache]
    """Lab -> its cells."""
    kind: str
    """"rendered" if any cells were rendered, otherwise "images"."""
    said: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Lab -> sentences that say which images and cells are left out, and what is not known."""


def located(spec: DataSpec) -> DataSpec:
    """Return the spec with the images' folder as an absolute path.

    A run keeps this path, so that it can be continued from another working folder.

    Raises:
        ConfigError: no folder is given.
        DataError: it is not a folder, or its subfolders are not labs.
    """
    if spec.source == "rendered":
        return spec
    _lab_folders(_root(spec), spec.label_map)
    return spec.model_copy(update={"root": _root(spec).absolute()})


def gather(
    spec: DataSpec, side: int, seed: int, progress: Progress, field_um: float = FIELD_UM
) -> Labs:
    """Render the labs' images, or find them, and keep each lab's cells in a cache.

    Args:
        spec: where the cells come from.
        side: the side of a cell's square in the cache, in pixels.
        seed: decides what is rendered.
        progress: is told how far it is.
        field_um: the side of a cell's square in micrometres.

    Raises:
        ConfigError: no folder is given, or `um_per_px` names an unknown lab.
        DataError: the images cannot be used.
    """
    root = _rendered(spec.rendered, seed, progress) if spec.source == "rendered" else _root(spec)
    folders = _lab_folders(root, spec.label_map)
    for lab in spec.um_per_px:
        if lab not in folders:
            raise ConfigError(f"data.um_per_px: no lab {lab!r}; there are: {', '.join(folders)}")
    drawn = spec.source == "rendered"
    scales = _rendered_scale(spec.rendered, folders) if drawn else spec.um_per_px
    caches, said = {}, {}
    for lab, folder in folders.items():
        index = scan(folder, spec.label_map or None)
        geometry = Geometry(side=side, um_per_px=scales.get(lab), field_um=field_um)
        said[lab] = tuple(_of_index(index, geometry))
        cache = keep(
            index,
            geometry,
            progress=lambda done, total, lab=lab: progress(f"indexing {lab}", done, total),  # type: ignore[misc]
        )
        caches[lab] = CellCache.open(cache)
    # A single lab of rendered cells means that this is not a study of real cells.
    any_drawn = any(map(is_rendered, (root, *folders.values())))
    return Labs(caches, "rendered" if any_drawn else "images", said)


def _of_index(index: Index, geometry: Geometry) -> Iterator[str]:
    if geometry.um_per_px is None:
        yield (
            "the scale is not known (data.um_per_px): each whole picture is taken for "
            f"{geometry.field_um:g} um"
        )
    for reason, number in index.skipped.items():
        yield f"{count(number, 'file')} passed over: {reason}"
    yield from index.remarks


def studied(labs: Labs, study: Study) -> Labs:
    """Return the labs with only the cells that the study uses, so that no other cell is counted.

    `said` tells what is left out.

    Raises:
        DataError: the study uses none of a lab's cells.
    """
    caches = {lab: cache.select(used(cache, study)) for lab, cache in labs.caches.items()}
    for lab, cache in caches.items():
        if not len(cache):
            raise DataError(
                f"lab {lab}: of its {count(len(labs.caches[lab]), 'cell')} the study uses none "
                f"({_use(study)}); take the lab out of the folder, or change the study"
            )
    said = {
        lab: (*labs.said.get(lab, ()), *_left_out(cache, study))
        for lab, cache in labs.caches.items()
    }
    return replace(labs, caches=caches, said={lab: lines for lab, lines in said.items() if lines})


def _left_out(cache: CellCache, study: Study) -> Iterator[str]:
    for what in LeftOut.of(cache, study).sentences:
        yield f"left out: {what}"


def _use(study: Study) -> str:
    types = f"cell_types: {', '.join(study.cell_types)}"
    if not study.privacy.of_patients:
        return types
    return f"{types}; privacy.unit: patient, so the patients must be known from a cells.csv"


def _rendered(spec: Rendered, seed: int, progress: Progress) -> Path:
    """Return the folder of smears that `spec` and `seed` describe; a machine renders them once."""
    # Slow to import, and not needed with real images.
    from simulations.synthetic import SiteSpec, synthesize
    from simulations.synthetic.site_style import named_styles

    description = f"{VERSION}|{seed}|{spec.model_dump_json()}"
    key = hashlib.sha256(description.encode()).hexdigest()[:32]
    out = default_root() / "rendered" / key
    if not is_rendered(out):
        styles = named_styles(spec.sites, seed)
        sites = {
            name: SiteSpec(style=style, cells=spec.cells, alpha=spec.alpha)
            for name, style in styles.items()
        }
        workers = os.cpu_count() or 1
        synthesize(
            out,
            sites=sites,
            seed=seed,
            side=spec.side,
            workers=workers,
            progress=lambda done, total: progress("rendering cells", done, total),
        )
    return out


def _rendered_scale(spec: Rendered, labs: Iterable[str]) -> dict[str, float]:
    """Return lab -> the scale of its rendered pictures, in micrometres per pixel."""
    from simulations.synthetic.fields import FIELD_OF_VIEW

    return dict.fromkeys(labs, FIELD_OF_VIEW / spec.side)


def _root(spec: DataSpec) -> Path:
    given = spec.root or os.environ.get(DATA_VARIABLE)
    if not given:
        raise ConfigError(
            f"data.root is not given: use --data DIR, or set {DATA_VARIABLE} to the folder of labs"
        )
    root = Path(given)
    if not root.is_dir():
        raise DataError(f"{root}: is not a folder; expected one folder a lab, or one lab's folder")
    return root


def _lab_folders(root: Path, label_map: Mapping[str, str]) -> dict[str, Path]:
    """Return lab -> its folder. A root with class folders or a table of cells is a lab itself."""
    below = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith((".", "__")))
    if (root / TABLE).exists() or any(known_as(folder.name, label_map) for folder in below):
        return {root.resolve().name: root}
    if not below:
        raise DataError(f"{root}: holds no folder; expected one folder a lab")
    _refuse_parts(root, [folder.name for folder in below])
    return {folder.name: folder for folder in below}


def _refuse_parts(root: Path, names: list[str]) -> None:
    """Raise DataError if folders have the names of splits or patients.

    Taken for labs, one would train on another's test cells, or each patient would be a hospital.
    """
    splits = [name for name in names if name.lower() in SPLITS]
    if len(splits) > 1 or splits == names:
        kind = "splits"
    elif len(names) > 1 and all(map(is_patient, names)):
        kind, splits = "patients", names
    else:
        return
    raise DataError(
        f"{root}: holds folders called {', '.join(splits[:3])}. If they are {kind} of one lab, "
        f"write a table that says so with `hemofed data index {quote(str(root))} --print-csv > "
        f"{quote(str(root / TABLE))}`, look it over, and simulate again; if they are labs, give "
        "them the labs' names"
    )
