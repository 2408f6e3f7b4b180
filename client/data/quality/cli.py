"""`hemofed data check`."""

from pathlib import Path
from typing import Annotated

import typer


def check_command(
    source: Annotated[Path, typer.Argument(help="Folder of class folders, or a CSV.")],
    reference: Annotated[
        Path | None,
        typer.Option(help="Another site's folder, CSV or profile, to compare the stain with."),
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Write all findings to this file.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page with thumbnails.")] = None,
    profile: Annotated[
        Path | None,
        typer.Option(help="Write this site's stain profile: medians of colours, no image."),
    ] = None,
    um_per_px: Annotated[
        float | None,
        typer.Option(min=1e-3, max=100, help="Micrometres a pixel, as for `data index`."),
    ] = None,
    label_map: Annotated[
        Path | None, typer.Option(help="YAML: this lab's names for the cell types.")
    ] = None,
) -> None:
    """Look for faults that would spoil training; change nothing. The exit code is 0, 10 (warnings)
    or 20 (failures)."""
    from json import dumps

    from rich.console import Console

    from client.data.label_map import read_label_map
    from client.data.progress import counting
    from client.data.quality.check import check
    from client.data.quality.page import html as page
    from client.data.quality.terminal import show
    from common.errors import ConfigError
    from common.files import write_text

    written = list(filter(None, (json, html, profile)))
    for path in written:
        if not path.parent.is_dir():
            raise ConfigError(f"{path}: its folder is not there; make it, or name another")
    console = Console()
    names = read_label_map(label_map) if label_map else None
    with counting(console, "checking") as progress:
        result = check(
            source,
            label_map=names,
            reference=reference,
            um_per_px=um_per_px,
            progress=progress,
        )
    show(result, console)
    if json:
        write_text(json, dumps(result.to_json(), indent=2))
    if html:
        write_text(html, page(result))
    if profile:
        write_text(profile, dumps(result.profile.to_json(), indent=2))
    for path in written:
        console.print(f"written: {path}", soft_wrap=True)
    raise typer.Exit(result.exit_code)
