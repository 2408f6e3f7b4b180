"""`hemofed server start | run | status | stop | resume | finish | withdraw | logs`: the running
aggregator."""

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from common.text import count
from common.untrusted_text import one_line, shown

if TYPE_CHECKING:
    from server.service.overview import MemberState, ServerOverview

app = typer.Typer(help="The running aggregator.", no_args_is_help=True)

Home = Annotated[Path, typer.Argument(help="The server's home.")]
_WATCH_SECONDS = 2.0
_ANSWER = {True: "yes", False: "no", None: "?"}
Name = Annotated[str, typer.Argument(help="The study: its name, or as `status` lists it.")]


@app.command()
def start(
    home: Home,
    listen: Annotated[
        str | None, typer.Option(help="host:port to listen on. Default: the registry's port.")
    ] = None,
) -> None:
    """Run the sites' listener and the studies until stopped. Both restart after a crash."""
    from common.process_hardening import told_to_stop
    from server.service.service import Service

    halt = told_to_stop()
    Service(home.absolute(), listen).run(halt, typer.echo)


@app.command()
def run(
    home: Home,
    study: Annotated[Path, typer.Argument(help="The study's YAML, with its cohort.")],
) -> None:
    """Propose a study. It runs as soon as the service runs and enough sites are ready."""
    from common.config.loading import load
    from common.config.study import Study
    from common.identity import Registry
    from server.studies.store import PROPOSAL, check_members, propose

    asked = load(Study, study)
    check_members(asked, Registry.load(home))
    stored = propose(home, asked)
    stored.resume()
    typer.echo(f"{stored.folder.name}: runs once {asked.round.min_sites} sites stand ready")
    typer.echo("Each site that runs gets it by itself, lists it, reads it and decides with")
    typer.echo("  hemofed site studies HOME")
    typer.echo(f"  hemofed site approve HOME {asked.name}")
    typer.echo(f"To a site that does not run, send {stored.folder / PROPOSAL}")
    typer.echo(f"digest {asked.digest}")
    if asked.privacy.mode != "none" and not asked.privacy.spare_rounds:
        typer.echo(
            "privacy.spare_rounds is 0: a round that a crash cuts off is paid for and cannot be "
            "done again, so the study may stop before its last round"
        )


@app.command()
def stop(home: Home, name: Name) -> None:
    """Stop a study after its current round; `resume` continues from there."""
    from server.studies.store import RUNS, find_stored

    stored = find_stored(home, name)
    under_way = stored.said()["state"] in RUNS
    stored.stop()
    said = "stops after the round under way" if under_way else "does not begin"
    typer.echo(f"{stored.folder.name}: {said}")


@app.command()
def resume(
    home: Home,
    name: Name,
    lift: Annotated[
        list[str] | None,
        typer.Option(help="A suspended site to ask again. Repeatable."),
    ] = None,
) -> None:
    """Continue a study that stopped or failed, from its last whole round."""
    from server.studies.store import find_stored

    stored = find_stored(home, name)
    stored.check_unfinished()
    stored.lift(stored.study(), lift or [])
    already = stored.wanted == "run"
    stored.resume()
    if already:
        typer.echo(f"{stored.folder.name}: is to run already; `hemofed server status` says why not")
    else:
        typer.echo(f"{stored.folder.name}: goes on from its last whole round")


@app.command()
def finish(home: Home, name: Name) -> None:
    """End a stopped or failed study with the rounds that it has: test and write its model."""
    from server.studies.store import find_stored

    stored = find_stored(home, name)
    stored.finish()
    typer.echo(
        f"{stored.folder.name}: the sites that are connected test the model of its "
        f"{count(stored.whole_rounds, 'whole round')}, then it lies in {stored.out}"
    )


@app.command()
def withdraw(home: Home, name: Name) -> None:
    """Withdraw a proposed study before its first round. The labs' lists no longer show it."""
    from server.studies.store import find_stored

    stored = find_stored(home, name)
    stored.withdraw()
    typer.echo(f"{stored.folder.name}: withdrawn; each lab hears of it once it is connected")


@app.command()
def status(
    home: Home,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    watch: Annotated[bool, typer.Option(help="Repeat every two seconds.")] = False,
) -> None:
    """Show the service's processes, what is full or out of date, how far each study is, and every
    member: whether it is connected, and whether it takes part or why not."""
    from server.service.overview import overview

    console = Console()
    while True:
        found = overview(home, datetime.now(UTC))
        if watch and not as_json:
            console.clear()
        if as_json:
            typer.echo(json.dumps(found.as_dict()))
        else:
            _print(found, console)
        if not watch:
            return
        time.sleep(_WATCH_SECONDS)


def _print(found: "ServerOverview", console: Console) -> None:
    for line in found.processes:
        console.print(escape(shown(line)), soft_wrap=True)
    for warning in found.warnings:
        console.print(escape(f"warning: {shown(warning)}"), soft_wrap=True)
    studies = _table("study", "wanted", "state", "round", "note")
    for one in found.studies:
        at = f"{one.round}/{one.rounds}" if one.rounds else ""
        studies.add_row(one.study, one.wanted, one.state, at, escape(one_line(one.note)))
    console.print(studies)
    members = _table(
        *("site", "connected", "version", "approved", "ready", "paused", "budget", "says")
    )
    for each in found.members:
        answers = (each.approved, each.ready, each.paused, each.budget)
        yes_or_no = [_ANSWER[answer] for answer in answers]
        says = escape(one_line(each.says))
        members.add_row(each.site, _connection(each), shown(each.version), *yes_or_no, says)
    console.print(members)


def _connection(member: "MemberState") -> str:
    """Return in words since when a member is connected, or when it was last seen."""
    if member.connected:
        return f"since {_clock(member.since)}" if member.since else "yes"
    return f"no, last seen {_clock(member.last_seen)}" if member.last_seen else "never"


def _clock(moment: str | None) -> str:
    """Return a moment in this machine's time zone, with its date unless that is today."""
    if moment is None:
        return "?"
    there, now = datetime.fromisoformat(moment).astimezone(), datetime.now().astimezone()
    return f"{there:%H:%M:%S}" if there.date() == now.date() else f"{there:%Y-%m-%d %H:%M}"


def _table(*headers: str) -> Table:
    """Return a table that wraps long texts and cuts none off."""
    return Table(*(Column(header, overflow="fold") for header in headers))


@app.command()
def logs(
    home: Home,
    lines: Annotated[int, typer.Option(min=1, help="Last lines of each log.")] = 20,
    follow: Annotated[bool, typer.Option(help="Keep printing new lines.")] = False,
) -> None:
    """Print the service's logs: what happened to the studies, which sites connected, faults."""
    from common.log_file import Follower
    from server.home import ServerHome

    files = [Follower(file) for file in sorted(ServerHome(home).logs.glob("*.log"))]
    for file in files:
        for line in file.last(lines):
            typer.echo(f"{file.path.stem}: {shown(line)}")
    while follow:
        time.sleep(0.5)
        for file in files:
            for line in file.fresh():
                typer.echo(f"{file.path.stem}: {shown(line)}")


@app.command()
def rounds(home: Home, name: Name) -> None:
    """Print the rounds of a study, one JSON line each."""
    from server.rounds import record
    from server.studies.store import find_stored

    out = find_stored(home, name).out
    for line in record.lines(out) if record.count(out) else []:
        typer.echo(json.dumps(json.loads(line)))
