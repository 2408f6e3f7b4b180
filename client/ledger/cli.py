"""`hemofed site ledger`: make a data set's privacy ledger, look at it, check it."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from client.ledger.summary import StudySpending, Summary

app = typer.Typer(no_args_is_help=True, help="The privacy ledger: what was spent on this data.")

Where = Annotated[Path, typer.Argument(help="The site's home, or the ledger file itself.")]
Home = Annotated[Path, typer.Argument(help="The site's home, the folder of its site.yaml.")]
AsJson = Annotated[bool, typer.Option("--json", help="For programs.")]
_BAR = 40
_LAST = "last debit (UTC)"
_COLUMNS = (
    *("study", "rounds", "evaluations", "statistics", "attempts", "steps", "epsilon"),
    _LAST,
)
_YAML = (".yaml", ".yml")


@app.command()
def create(home: Home) -> None:
    """Make the ledger of a data set that never trained; one that exists is never replaced.

    The cells are told of it: another home on the same cells shares it, and gets none of its own.
    """
    from client.ledger.binding import create_ledger
    from client.site import open_site

    ledger, untold = create_ledger(open_site(_site_file(home)))
    with ledger:
        typer.echo(f"{ledger.path}: made; head {ledger.head}")
    _say_untold(untold)


@app.command()
def rebind(home: Home) -> None:
    """Continue the ledger after images were added or removed, for another home with the same cells
    whose site.yaml names it, or after it was moved; what was spent stays spent."""
    from client.ledger.binding import continue_ledger
    from client.site import open_site

    ledger, untold = continue_ledger(open_site(_site_file(home)))
    with ledger:
        typer.echo(f"{ledger.path}: is the ledger of these cells; head {ledger.head}")
    _say_untold(untold)


def _say_untold(folders: list[Path]) -> None:
    for folder in folders:
        typer.echo(
            f"{folder}: is not there, or cannot be written, so the images do not say which ledger "
            "is theirs. Name this one in the site.yaml of every other home that indexes them; "
            "`hemofed site ledger rebind` tells the images once they are there",
            err=True,
        )


@app.command()
def adopt(
    home: Home,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Go on with an older ledger when the newest copy is lost; the audit log will say so.

    What was spent since is in it no more. Before this, lower `lifetime_epsilon` in the policy by
    the epsilon of every study that the lab took part in since the copy was made.
    """
    from client.ledger.rollback import adopt as adopt_ledger
    from client.membership.membership import Membership
    from client.site import open_site

    question = "Is lifetime_epsilon lowered by all that was spent since this copy was made?"
    if not yes:
        typer.confirm(question, abort=True)
    file = _site_file(home)
    head, lost = adopt_ledger(open_site(file), Membership.load(file.parent))
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
    from client.ledger.ledger import Ledger
    from client.ledger.summary import summarise

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

    Of a home also whether it is the ledger of the site's cells, and holds all that the site's
    audit log says was released.
    """
    from client.home import SiteHome
    from client.ledger.binding import open_ledger
    from client.ledger.ledger import Ledger
    from client.ledger.rollback import check_own_ledger
    from client.site import open_site
    from common.text import count

    with Ledger.read(_file(where)) as ledger:
        ledger.check_has(head)
        if (file := _site_file(where)).suffix in _YAML:
            site = open_site(file)
            open_ledger(site).close()
            check_own_ledger(site, SiteHome(file.parent).audit)
        rows = ledger.verify()
        if as_json:
            content = {"path": str(ledger.path), "rows": rows, "head": ledger.head, "sound": True}
            typer.echo(json.dumps(content))
        else:
            typer.echo(f"{ledger.path}: {count(rows, 'row')}, all sound; head {ledger.head}")


def _site_file(where: Path) -> Path:
    """The site.yaml of a home; a file is what it is."""
    return where / "site.yaml" if where.is_dir() else where


def _file(where: Path) -> Path:
    from client.site import open_site

    file = _site_file(where)
    return open_site(file).ledger if file.suffix in _YAML else file


def _bounds(where: Path, delta: float | None, lifetime: float | None) -> tuple[float, float | None]:
    """Delta and the lifetime epsilon: what was given, else the policy's of a site that has one."""
    from client.policy.policy import read_policy
    from client.site import open_site

    file = _site_file(where)
    if file.suffix in _YAML and (path := open_site(file).policy).is_file():
        policy = read_policy(path)
        return delta or policy.delta, lifetime or policy.lifetime_epsilon
    return delta or 1e-5, lifetime


def _cost(study: "StudySpending") -> str:
    """A study's epsilon, and what it says nothing of."""
    bare = f"without privacy: unbounded ({study.unprotected})" if study.unprotected else ""
    noised = f"{study.epsilon:.4g}" if study.unprotected < study.attempts else ""
    return " + ".join(filter(None, (noised, bare)))


def _print(summary: "Summary", console: Console) -> None:
    from client.ledger.summary import beside_epsilon

    table = Table(title=f"Privacy ledger {summary.path}")
    for name in _COLUMNS:
        table.add_column(name, justify="left" if name in ("study", _LAST) else "right")
    for study in summary.studies:
        told = (study.rounds, study.evaluations, study.statistics)
        numbers = (*told, study.attempts, study.steps)
        table.add_row(study.study[:12], *map(str, numbers), _cost(study), study.last[:19])
    console.print(table)
    left = ""
    if summary.left is not None:
        left = f"; left for one more study, by the lifetime filter: {summary.left:.4g}"
    console.print(f"spent: epsilon {summary.epsilon:.4g} at delta {summary.delta:g}{left}")
    if summary.unprotected:
        console.print(beside_epsilon(summary.unprotected))
    if summary.adjacency:
        console.print(f"per {summary.unit}: {summary.adjacency}")
    console.print(f"composed by {summary.accountant}")
    for row, value in summary.curve:
        bar = "█" * max(1, round(_BAR * value / summary.epsilon))
        console.print(f"{row:>8}  {bar} {value:.3g}", highlight=False)
    console.print(f"head {summary.head}", soft_wrap=True, highlight=False)
