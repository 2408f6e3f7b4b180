"""The command `hemofed data synthesize`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


def synthesize_command(
    out: Annotated[Path, typer.Argument(help="Folder to write; it must be new or empty.")],
    sites: Annotated[int, typer.Option(min=1, max=1000, help="Number of labs.")] = 5,
    cells: Annotated[int, typer.Option(min=1, help="Cells per lab.")] = 600,
    side: Annotated[int, typer.Option(min=16, max=512, help="Pixels per side (25 um).")] = 96,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same bytes.")] = 0,
    alpha: Annotated[
        float, typer.Option(min=0.01, help="How even the labs' mixes of types are (Dirichlet).")
    ] = 5.0,
    workers: Annotated[int, typer.Option(min=1, help="Number of processes.")] = 2,
    contact_sheet: Annotated[
        Path | None, typer.Option(help="Also write a PNG of all cell types at all labs.")
    ] = None,
) -> None:
    """Render blood cells of all 18 types in the styles of different labs."""
    from simulations.synthetic import SiteSpec, synthesize
    from simulations.synthetic import contact_sheet as write_contact_sheet
    from simulations.synthetic.site_style import named_styles

    styles = named_styles(sites, seed)
    specs = {
        name: SiteSpec(style=style, cells=cells, alpha=alpha) for name, style in styles.items()
    }
    console = Console()
    columns = (TextColumn("rendering"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("rendering", total=sites * cells)
        synthesize(
            out,
            sites=specs,
            seed=seed,
            side=side,
            workers=workers,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    console.print(f"{out}: {sites * cells} rendered cells at {sites} sites ({', '.join(specs)})")
    if contact_sheet:
        write_contact_sheet(contact_sheet, styles=styles, side=side, seed=seed)
        console.print(f"{contact_sheet}: contact sheet of the cell types at the sites")
