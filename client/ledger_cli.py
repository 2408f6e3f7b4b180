"""`hemofed site ledger`: make a data set's privacy ledger, look at it, check it."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from client.ledger_summary import Summary

app = typer.Typer(no_args_is_help=True, help="The privacy ledger: what was spent on this data.")

Where = Annotated[Path, typer.Argument(help="The site's site.yaml, or the ledger file itself.")]
SiteFile = Annotated[Path, typer.Argument(help="The site's site.yaml.")]
AsJson = Annotated[bool, typer.Option("--json", help="For programs.")]
_BAR = 40
_LAST = "last debit (UTC)"
_YAML = (".yaml", ".yml")


@app.command()
def create(site: SiteFile) -> None:
    """Make the ledger of a data set that never trained; one that exists is never replaced."""
    from client.ledger import Ledger
    from client.ledger_binding import data_fingerprint
    from client.site import open_site

    opened = open_site(site)
    with Ledger.create(opened.ledger, data_fingerprint(opened)) as ledger:
        typer.echo(f"{ledger.path}: made; head {ledger.head}")


@app.command()
def rebind(site: SiteFile) -> None:
    """Continue the ledger after images were added or removed; what was spent stays spent."""
    from client.ledger import Ledger
    from client.ledger_binding import data_fingerprint
    from client.site import open_site

    opened = open_site(site)
    fingerprint = data_fingerprint(opened)
    with Ledger.read(opened.ledger) as ledger:
        if ledger.fingerprint == fingerprint:
            typer.echo(f"{ledger.path}: is bound to these cells already")
            return
        ledger.rebind(fingerprint)
        typer.echo(f"{ledger.path}: continues for the cells as they are; head {ledger.head}")


@app.command()
def adopt(
    site: SiteFile,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Go on with an older ledger when the newest copy is lost; the audit log will say so.

    What was spent since is in it no more. Before this, lower `lifetime_epsilon` in the policy by
    the epsilon of every study that the lab took part in since the copy was made.
    """
    from client.ledger_memory import adopt as adopt_ledger
    from client.membership import Membership
    from client.site import open_site

    question = "Is lifetime_epsilon lowered by all that was spent since this copy was made?"
    if not yes:
        typer.confirm(question, abort=True)
    head, lost = adopt_ledger(open_site(site), Membership.load(site.parent))
    typer.echo(f"adopted at head {head}; releases that it does not hold: {lost}")


@app.command()
def show(
    where: Where,
    delta: Annotated[
        float | None,
        typer.Option(help="Where epsilon is stated; else the site's policy's, or 1e-5."),
    ] = None,
    lifetime: Annotated[
        float | None,
        typer.Option(min=0, help="Lifetime epsilon, to see what is left; else the policy's."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """What was spent, by study, and what is left."""
    from client.ledger import Ledger
    from client.ledger_summary import summarise

    with Ledger.read(_file(where)) as ledger:
        summary = summarise(ledger, *_bounds(where, delta, lifetime))
    if as_json:
        typer.echo(json.dumps(summary.as_dict(), indent=2))
    else:
        _print(summary, Console())


@app.command()
def verify(
    where: Where,
    head: Annotated[
        str | None, typer.Option(help="The head that was acknowledged last: finds an older copy.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check the file, every row and the chain; the first fault found ends it with exit code 5.

    Of a site.yaml also whether it is the ledger of the site's cells, and holds all that the site's
    audit log says was released.
    """
    from client.home import SiteHome
    from client.ledger import Ledger
    from client.ledger_binding import data_fingerprint
    from client.ledger_memory import check_own_ledger
    from client.site import open_site

    with Ledger.read(_file(where)) as ledger:
        ledger.check_has(head)
        if where.suffix in _YAML:
            site = open_site(where)
            ledger.check_is(data_fingerprint(site))
            check_own_ledger(site, SiteHome(where.parent).audit)
        rows = ledger.verify()
        if as_json:
            content = {"path": str(ledger.path), "rows": rows, "head": ledger.head, "sound": True}
            typer.echo(json.dumps(content))
        else:
            typer.echo(f"{ledger.path}: {rows} rows, all sound; head {ledger.head}")


def _file(where: Path) -> Path:
    from client.site import open_site

    return open_site(where).ledger if where.suffix in _YAML else where


def _bounds(where: Path, delta: float | None, lifetime: float | None) -> tuple[float, float | None]:
    """Delta and the lifetime epsilon: what was given, else the policy's of a site that has one."""
    from client.policy import read_policy
    from client.site import open_site

    if where.suffix in _YAML and (path := open_site(where).policy).is_file():
        policy = read_policy(path)
        return delta or policy.delta, lifetime or policy.lifetime_epsilon
    return delta or 1e-5, lifetime


def _print(summary: "Summary", console: Console) -> None:
    table = Table(title=f"Privacy ledger {summary.path}")
    for name in ("study", "rounds", "evaluations", "attempts", "steps", "epsilon", _LAST):
        table.add_column(name, justify="left" if name in ("study", _LAST) else "right")
    for study in summary.studies:
        numbers = (study.rounds, study.evaluations, study.attempts, study.steps)
        table.add_row(study.study[:12], *map(str, numbers), f"{study.epsilon:.4g}", study.last[:19])
    console.print(table)
    left = ""
    if summary.left is not None:
        left = f"; left for further rounds, by the lifetime filter: {summary.left:.4g}"
    console.print(f"spent: epsilon {summary.epsilon:.4g} at delta {summary.delta:g}{left}")
    if summary.adjacency:
        console.print(f"per {summary.unit}: {summary.adjacency}")
    console.print(f"composed by {summary.accountant}")
    for row, value in summary.curve:
        bar = "█" * max(1, round(_BAR * value / summary.epsilon))
        console.print(f"{row:>8}  {bar} {value:.3g}", highlight=False)
    console.print(f"head {summary.head}", soft_wrap=True, highlight=False)
