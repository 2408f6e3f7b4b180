"""`hemofed site check | start | status | pause | resume`."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from common.untrusted_text import one_line

if TYPE_CHECKING:
    from client.service.preflight import Line

app = typer.Typer(help="The lab's client.", no_args_is_help=True)

Home = Annotated[Path, typer.Argument(help="The site's home, the folder of its site.yaml.")]


@app.command()
def start(home: Home) -> None:
    """Connect to the server, and answer it until stopped. All connections are outbound."""
    from client.home import SiteHome
    from client.service.service import serve
    from common.process_hardening import told_to_stop

    serve(SiteHome(home.absolute()), told_to_stop())


@app.command()
def check(
    home: Home,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Check whether all is ready: who may write the home, cells, policy, ledger, keys, dates,
    approvals, connection, clock, disk, device, runner, kernels. The exit code is 6 when something
    is wrong."""
    from client.home import SiteHome
    from client.service.preflight import check_site
    from common.errors import FederationError

    lines = check_site(SiteHome(home.absolute()))
    if as_json:
        typer.echo(json.dumps([asdict(line) for line in lines]))
    else:
        _print(lines)
    wrong = [line.topic for line in lines if line.verdict == "wrong"]
    if wrong:
        raise FederationError(f"{home}: not ready: {', '.join(wrong)}")


@app.command()
def pause(home: Home) -> None:
    """Sit out from now on; an answer that is not ready yet does not leave either."""
    from client.home import SiteHome
    from common.files import write_text

    write_text(SiteHome(home).paused, "")
    typer.echo("paused: it sits out of each round until `hemofed site resume`")


@app.command()
def resume(home: Home) -> None:
    """Take part again after a pause."""
    from client.home import SiteHome

    SiteHome(home).paused.unlink(missing_ok=True)
    typer.echo("goes on")


@app.command()
def status(
    home: Home,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Show whether the client runs, the state and cost of each study, and what is left."""
    from client.home import SiteHome
    from client.service.overview import overview

    place = SiteHome(home.absolute())
    found = overview(place)
    if as_json:
        typer.echo(json.dumps(found.as_dict()))
        return
    if found.runs and place.status.exists():
        for key, value in json.loads(place.status.read_text(encoding="utf-8")).items():
            typer.echo(f"{key}: {value}")
    else:
        typer.echo("not running; start it with `hemofed site start`")
    table = _table("study", "digest", "state", "round", "spent", "since (UTC)")
    for one in found.studies:
        at = f"{one.round}/{one.rounds}"
        table.add_row(one.study, one.digest[:12], one.state, at, one.cost, one.since[:16])
    Console().print(table)
    typer.echo(one_line(found.budget))


def _print(lines: "list[Line]") -> None:
    colour = {"ok": "green", "warning": "yellow", "wrong": "red"}
    table = _table("topic", "verdict", "what is there, or what to do")
    for line in lines:
        verdict = f"[{colour[line.verdict]}]{line.verdict}[/]"
        table.add_row(line.topic, verdict, escape(one_line(line.text)))
    Console().print(table)


def _table(*headers: str) -> Table:
    """A table that wraps long text, also paths and names, and cuts nothing off."""
    return Table(*(Column(header, overflow="fold") for header in headers))
