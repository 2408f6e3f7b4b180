"""`hemofed server start | run | status | stop | resume | logs`: the running aggregator."""

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from common.plain_text import one_line, shown

app = typer.Typer(help="The running aggregator.", no_args_is_help=True)

Home = Annotated[Path, typer.Argument(help="The server's home.")]
Name = Annotated[str, typer.Argument(help="The study: its name, or as `status` lists it.")]


@app.command()
def start(
    home: Home,
    listen: Annotated[
        str | None, typer.Option(help="host:port to listen on; default: the registry's port.")
    ] = None,
) -> None:
    """Serve until stopped: the sites' listener and the rounds, restarted when they crash."""
    from common.own_process import told_to_stop
    from server.service import Service

    halt = told_to_stop()
    Service(home.absolute(), listen).run(halt, typer.echo)


@app.command()
def run(
    home: Home,
    study: Annotated[Path, typer.Argument(help="The study's YAML, with its cohort.")],
) -> None:
    """Propose a study and run it, as soon as the service is there and enough sites are."""
    from common.config import Study
    from common.identity import Registry
    from common.yaml_files import load
    from server.studies import PROPOSAL, check_members, propose

    asked = load(Study, study)
    check_members(asked, Registry.load(home))
    stored = propose(home, asked)
    stored.check_unfinished()
    stored.want("run")
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
    """Stop a study after the round under way; `resume` goes on from there."""
    from server.studies import find_stored

    stored = find_stored(home, name)
    stored.check_unfinished()
    stored.want("stop")
    typer.echo(f"{stored.folder.name}: stops after the round under way")


@app.command()
def resume(
    home: Home,
    name: Name,
    lift: Annotated[
        list[str] | None,
        typer.Option(help="A suspended site that is to be asked again; may be given again."),
    ] = None,
) -> None:
    """Go on with a study that stopped or failed, from its last whole round."""
    from server.studies import find_stored

    stored = find_stored(home, name)
    stored.check_unfinished()
    stored.lift(stored.study(), lift or [])
    stored.want("run")
    typer.echo(f"{stored.folder.name}: goes on from its last whole round")


@app.command()
def status(home: Home) -> None:
    """The service's parts, what is full or out of date, and how far each study is."""
    from common.identity import Registry
    from common.room import lack_of_room
    from server.provisioning import expiries
    from server.service import processes
    from server.studies import stored_studies

    console = Console()
    for line in processes(home.absolute()):
        console.print(escape(shown(line)), soft_wrap=True)
    for warning in (lack_of_room(home), *expiries(home, Registry.load(home), datetime.now(UTC))):
        if warning:
            console.print(escape(f"warning: {shown(warning)}"), soft_wrap=True)
    table = Table("study", "wanted", "state", "round", "note")
    for stored in stored_studies(home):
        said = stored.said()
        at = f"{said.get('round', 0)}/{said['rounds']}" if "rounds" in said else ""
        table.add_row(
            stored.folder.name, stored.wanted, said["state"], at, escape(one_line(_note(said)))
        )
    console.print(table)


def _note(said: dict[str, Any]) -> str:
    """Why the study does not go on; or for whom it waits, and what other sites said last that are
    neither ready nor took part."""
    if "reason" in said:
        return str(said["reason"])
    waits, sites = said.get("waits", []), said.get("sites", {})
    words = [f"waits for {', '.join(waits)}"] if waits else []
    for site, word in sorted(sites.items()):
        if site not in waits and word not in ("ok", "ready"):
            words.append(f"{site}: {word}")
    return "; ".join(words)


@app.command()
def logs(
    home: Home,
    lines: Annotated[int, typer.Option(min=1, help="Last lines of each log.")] = 20,
    follow: Annotated[bool, typer.Option(help="Go on printing what comes.")] = False,
) -> None:
    """What the service's parts wrote."""
    files = sorted((home / "logs").glob("*.log"))
    seen = {}
    for file in files:
        text = file.read_text(encoding="utf-8", errors="replace").splitlines()
        seen[file] = len(text)
        for line in text[-lines:]:
            typer.echo(f"{file.stem}: {shown(line)}")
    while follow:
        time.sleep(0.5)
        for file in files:
            text = file.read_text(encoding="utf-8", errors="replace").splitlines()
            for line in text[seen[file] :]:
                typer.echo(f"{file.stem}: {shown(line)}")
            seen[file] = len(text)


@app.command()
def rounds(home: Home, name: Name) -> None:
    """The rounds of a study, one JSON line each."""
    from server.studies import find_stored

    path = find_stored(home, name).out / "rounds.jsonl"
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        typer.echo(json.dumps(json.loads(line)))
