"""The command `hemofed data fetch`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from client.data.cli import Side, make_index
from common.field_of_view import FIELD_UM


def fetch_command(
    name: Annotated[str, typer.Argument(help="The public data set: mll23.")],
    out: Annotated[Path, typer.Option(help="Folder for the images (about 10 GB).")] = Path("mll23"),
    side: Side = 64,
    url: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Download, verify, unpack and index a public data set. Run it again to continue."""
    from client.data.index import scan
    from client.data.progress import transferring
    from common.errors import ConfigError
    from simulations.datasets.mll23 import MLL23, MLL23_UM_PER_PX
    from simulations.datasets.mll23 import fetch as bring

    if name.lower() != "mll23":
        raise ConfigError(f"{name!r} cannot be fetched; known: mll23")
    console = Console()
    with transferring(console, name) as report:
        bring(out, url or MLL23, progress=report)
    make_index(scan(out), side, MLL23_UM_PER_PX, FIELD_UM, None, False)
