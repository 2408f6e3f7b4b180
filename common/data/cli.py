"""`hemofed data ...`: a lab's images, from files to what a model reads."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from common.data.quality.cli import check_command
from common.data.scale import FIELD_UM, NO_SCALE

if TYPE_CHECKING:
    from common.data.store import CellCache

app = typer.Typer(no_args_is_help=True, help="A lab's images: index, check, render, fetch.")

app.command("check")(check_command)

Side = Annotated[int, typer.Option(min=1, max=4096, help="Pixels along an edge of a cached image.")]
Out = Annotated[
    Path | None,
    typer.Option(help="Folder of the cache; else in HEMOFED_CACHE or ~/.cache/hemofed."),
]
Scale = Annotated[
    float | None,
    typer.Option(
        min=1e-3, max=100, help="Micrometres a pixel; then the middle --field-um become the side."
    ),
]
Field = Annotated[
    float, typer.Option(min=6, max=80, help="The study's field_um: micrometres along the side.")
]
LabelMap = Annotated[Path | None, typer.Option(help="YAML: this lab's names for the cell types.")]


@app.command()
def index(
    source: Annotated[Path, typer.Argument(help="Folder of class folders, or a CSV.")],
    side: Side = 64,
    um_per_px: Scale = None,
    field_um: Field = FIELD_UM,
    out: Out = None,
    label_map: LabelMap = None,
) -> None:
    """Decode images once into a cache that training reads."""
    from common.data.label_map import read_label_map

    names = read_label_map(label_map) if label_map else None
    _index(source, side, um_per_px, field_um, out, names)


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="The public data set: mll23.")],
    out: Annotated[Path, typer.Option(help="Folder for the images (about 10 GB).")] = Path("mll23"),
    side: Side = 64,
    url: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Download, verify, unpack and index a public data set; run again to go on."""
    from common.data.fetch import MLL23, MLL23_UM_PER_PX
    from common.data.fetch import fetch as bring
    from common.data.progress import transferring
    from common.errors import ConfigError

    if name.lower() != "mll23":
        raise ConfigError(f"{name!r} cannot be fetched; known: mll23")
    console = Console()
    with transferring(console, name) as report:
        bring(out, url or MLL23, progress=report)
    _index(out, side, MLL23_UM_PER_PX, FIELD_UM, None, None)


def _index(
    source: Path,
    side: int,
    um_per_px: float | None,
    field_um: float,
    out: Path | None,
    label_map: dict[str, str] | None,
) -> None:
    from common.data.cache import CellCache, build, prepare
    from common.data.index import scan
    from common.data.progress import counting

    console = Console()
    with counting(console, "indexing") as progress:
        if out is None:
            folder = prepare(
                source,
                side,
                label_map=label_map,
                um_per_px=um_per_px,
                field_um=field_um,
                progress=progress,
            )
        else:
            index = scan(source, label_map)
            folder = build(index, out, side, um_per_px, field_um, progress=progress)
    _show(console, CellCache.open(folder))


def _show(console: Console, cache: "CellCache") -> None:
    """What is in the cache, and what was passed over."""
    table = Table("cell type", "images", title=f"{len(cache):,} images of {cache.side} px")
    table.columns[1].justify = "right"
    for name, number in cache.counts.items():
        table.add_row(name, f"{number:,}")
    console.print(table)
    patients = {patient for patient in cache.patients if patient}
    console.print(f"patients: {len(patients):,}" if patients else "patients: not known")
    console.print(_scale(cache), soft_wrap=True)
    for reason, number in cache.meta["skipped"].items():
        console.print(f"passed over: {number:,} {reason}")
    console.print(f"cache: {cache.folder}", soft_wrap=True)


def _scale(cache: "CellCache") -> str:
    um_per_px, field_um = cache.meta["um_per_px"], cache.meta["field_um"]
    if um_per_px is None:
        return f"scale: not known: {NO_SCALE}"
    return f"scale: {um_per_px:g} um a pixel; a cached image shows {field_um:g} um"
