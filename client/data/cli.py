"""`hemofed data ...`: a lab's images, from files to the cache that a model reads."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from client.data.quality.cli import check_command
from client.data.scale import NO_SCALE
from common.field_of_view import FIELD_UM

if TYPE_CHECKING:
    from client.data.index import Index
    from client.data.store import CellCache

app = typer.Typer(no_args_is_help=True, help="A lab's images: index, check, render, fetch.")

app.command("check")(check_command)

_SHOWN = 20
"""Most unreadable images that the output names."""

Side = Annotated[int, typer.Option(min=1, max=4096, help="Pixels along an edge of a cached image.")]
Out = Annotated[
    Path | None,
    typer.Option(help="Folder of the cache; else in HEMOFED_CACHE or ~/.cache/hemofed."),
]
Scale = Annotated[
    float | None,
    typer.Option(
        min=1e-3, max=100, help="Micrometres a pixel; a cached image then shows --field-um."
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
    skip_unreadable: Annotated[
        bool, typer.Option("--skip-unreadable", help="Leave out images that cannot be read.")
    ] = False,
    leave_out: Annotated[
        Path | None,
        typer.Option(help="JSON of `data check`: leave out the images that it says to leave out."),
    ] = None,
    print_csv: Annotated[
        bool,
        typer.Option(
            "--print-csv", help="Print a table of all images below a folder; make no cache."
        ),
    ] = False,
) -> None:
    """Decode images once into a cache that training reads."""
    from client.data.index import scan
    from client.data.label_map import read_label_map
    from client.data.leave_out import LeaveOut, of_another, read_leave_out

    names = read_label_map(label_map) if label_map else None
    if print_csv:
        if out or skip_unreadable or leave_out:
            raise typer.BadParameter(
                "--print-csv makes a table and no index: leave out --out, --skip-unreadable and "
                "--leave-out"
            )
        _print_csv(source, names)
        return
    left_out = read_leave_out(leave_out) if leave_out else LeaveOut()
    found = scan(source, names, left_out.names, skip_unread=skip_unreadable)
    if said := of_another(left_out, source):
        found = replace(found, remarks=(*found.remarks, said))
    make_index(found, side, um_per_px, field_um, out, skip_unreadable)


def _print_csv(source: Path, label_map: dict[str, str] | None) -> None:
    """Print the table on stdout, and on stderr how it came about."""
    import csv
    import sys

    from client.data.folder_tree import read_tree, summary
    from client.data.table import COLUMNS

    tree = read_tree(source, label_map)
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerows([COLUMNS, *tree.rows])
    for line in summary(tree, label_map):
        typer.echo(line, err=True)


def make_index(
    found: "Index",
    side: int,
    um_per_px: float | None,
    field_um: float,
    out: Path | None,
    skip_unreadable: bool,
) -> None:
    """Make the cache of a scanned source, and show the progress and the cache's content.

    Args:
        found: the scanned source.
        side: pixels along an edge of a cached image.
        um_per_px: the scale of the source's pictures, micrometres a pixel; None: not known.
        field_um: micrometres along the edge of a cached image, if the scale is known.
        out: the cache's folder; None: a folder in the cache root.
        skip_unreadable: leave out images that cannot be read.

    Raises DataError as `build` does.
    """
    from client.data.cache import CellCache, Geometry, build, keep
    from client.data.leave_out import without_unreadable
    from client.data.progress import counting

    console = Console()
    faults: tuple[str, ...] = ()
    if skip_unreadable:
        with counting(console, "reading") as progress:
            found, faults = without_unreadable(found, progress, um_per_px)
    with counting(console, "indexing") as progress:
        if out is None:
            geometry = Geometry(side=side, um_per_px=um_per_px, field_um=field_um)
            folder = keep(found, geometry, progress=progress)
        else:
            folder = build(found, out, side, um_per_px, field_um, progress=progress)
    _show(console, CellCache.open(folder), found, faults)


def _show(console: Console, cache: "CellCache", found: "Index", faults: Sequence[str]) -> None:
    """Print the cache's content, and what it leaves out."""
    from client.data.patient_names import unknown
    from client.data.stated_scale import look

    table = Table("cell type", "images", title=f"{len(cache):,} images of {cache.side} px")
    table.columns[1].justify = "right"
    for name, number in cache.counts.items():
        table.add_row(name, f"{number:,}")
    console.print(table)
    patients = cache.patients.tolist()
    known = {patient for patient in patients if patient}
    console.print(f"patients: {len(known):,}" if known else "patients: not known")
    if said := unknown(patients):
        console.print(said, soft_wrap=True)
    console.print(_scale(cache), soft_wrap=True)
    for line in look([row.path for row in found.rows], cache.meta["um_per_px"]):
        console.print(f"scale: {line}", markup=False, soft_wrap=True)
    for reason, number in found.skipped.items():
        console.print(f"passed over: {number:,} {reason}")
    for line in faults[:_SHOWN]:
        console.print(f"  {line}", markup=False, soft_wrap=True)
    if len(faults) > _SHOWN:
        console.print(f"  and {len(faults) - _SHOWN:,} more; `hemofed data check` names them all")
    for remark in found.remarks:
        console.print(remark, style="yellow", markup=False, soft_wrap=True)
    console.print(f"cache: {cache.folder}", soft_wrap=True)


def _scale(cache: "CellCache") -> str:
    um_per_px, field_um = cache.meta["um_per_px"], cache.meta["field_um"]
    if um_per_px is None:
        return f"scale: not known: {NO_SCALE}"
    return f"scale: {um_per_px:g} um a pixel; a cached image shows {field_um:g} um"
