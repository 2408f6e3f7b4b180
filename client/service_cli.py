"""`hemofed site check | approve | start | status | pause | resume`: the running client."""

import json
import signal
from pathlib import Path
from threading import Event
from typing import Annotated

import typer

app = typer.Typer(help="The lab's client.", no_args_is_help=True)

Home = Annotated[Path, typer.Argument(help="The site's home, the folder of its site.yaml.")]


@app.command()
def start(home: Home) -> None:
    """Connect to the server and answer it until stopped. Only outbound connections."""
    from client.home import SiteHome
    from client.service import serve

    halt = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: halt.set())
    serve(SiteHome(home.absolute()), halt)


@app.command()
def pause(home: Home) -> None:
    """Let nothing leave from this moment on; a finished answer is held back."""
    from client.home import SiteHome
    from common.files import write_text

    write_text(SiteHome(home).paused, "")
    typer.echo("paused: nothing leaves until `hemofed site resume`")


@app.command()
def resume(home: Home) -> None:
    """Go on after a pause."""
    from client.home import SiteHome

    SiteHome(home).paused.unlink(missing_ok=True)
    typer.echo("goes on")


@app.command()
def status(home: Home) -> None:
    """Whether the client runs, and what it has done."""
    from client.home import SiteHome

    path = SiteHome(home).status
    if not path.exists():
        typer.echo("not running; start it with `hemofed site start`")
        return
    for key, value in json.loads(path.read_text(encoding="utf-8")).items():
        typer.echo(f"{key}: {value}")
