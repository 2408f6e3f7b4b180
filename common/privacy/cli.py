"""`hemofed privacy ...`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from common.config import Study
    from common.privacy.plan import Plan

app = typer.Typer(no_args_is_help=True, help="What a study's privacy means, before it runs.")


@app.callback()
def _group() -> None:
    """Keeps `plan` a command of its own while it is the only one."""


@app.command()
def plan(
    study: Annotated[
        str, typer.Argument(help="A study's YAML, a simulation's, or the name of one shipped.")
    ],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="key=value of the study, like privacy.epsilon=3; repeatable."),
    ] = None,
    figure: Annotated[Path | None, typer.Option(help="Also draw it into this PNG.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Noise, epsilon by round, other choices, and what it is worth to a patient."""
    from common.config import find
    from common.privacy.plan import make_plan

    asked = _read(find(study, "simulations"), settings or [])
    with Console(stderr=True).status("composing privacy losses (about half a minute)"):
        made = make_plan(asked)
    if figure is not None:
        from common.privacy.plan_figure import draw

        draw(made, figure)
    if as_json:
        typer.echo(json.dumps(made.as_dict(), indent=2))
    else:
        _print(made, Console())


def _read(path: Path, settings: list[str]) -> "Study":
    """The study in a study's YAML, or under `study:` in a simulation's."""
    from common.config import Study, override, parse, read_yaml

    content = read_yaml(path)
    if isinstance(content.get("study"), dict):
        content = content["study"]
    for setting in settings:
        content = override(content, setting)
    return parse(Study, content, str(path))


def _print(made: "Plan", console: Console) -> None:
    console.print(f"[bold]{made.study}[/bold] ({made.digest[:12]})", highlight=False)
    console.print(
        f"noise multiplier {made.noise_multiplier:.5g} on gradients clipped to "
        f"{made.max_grad_norm:g}: epsilon {made.epsilon:.4g} at delta {made.delta:g} after "
        f"{made.rounds} rounds of {made.local_steps} steps (asked: {made.epsilon_asked:g}; the "
        f"live gate's RDP bound: {made.epsilon_rdp:.4g})"
    )
    console.print(f"per {made.unit}: {made.adjacency}")
    console.print(f"protects from {made.protects_from}")
    console.print(f"composed by {made.accountant}\n")
    for table in (_rounds(made), _choices(made), _patients(made)):
        console.print(table)


def _rounds(made: "Plan") -> Table:
    table = Table("rounds done", "epsilon of each site", title="By round")
    for rounds, value in made.by_round:
        table.add_row(str(rounds), f"{value:.4g}")
    return table


def _choices(made: "Plan") -> Table:
    table = Table(title="Other choices")
    table.add_column("choice", no_wrap=True)
    for name in ("rounds x steps", "rate", "noise", "gradient", "epsilon"):
        table.add_column(name, justify="right", no_wrap=True)
    for choice in made.choices:
        table.add_row(
            choice.change,
            f"{choice.rounds} x {choice.local_steps}",
            f"{choice.sample_rate:g}",
            f"{choice.noise_multiplier:.4g}",
            f"{choice.relative_noise:.0%}",
            f"{choice.epsilon_as_is:.4g}",
        )
    table.caption = (
        f"noise: the multiplier for epsilon {made.epsilon_asked:g}; gradient: with that, the "
        "noise on a step's mean gradient against this plan's; epsilon: with this plan's multiplier"
    )
    return table


def _patients(made: "Plan") -> Table:
    table = Table("images of a patient", "epsilon of that patient", title="For a patient")
    for images, value in made.by_patient:
        table.add_row(str(images), f"{value:.4g}")
    if made.unit == "image":
        table.caption = "Every image of the patient counts (arXiv 2401.10294)."
    else:
        table.caption = "The patient is the unit: more images cost no more."
    return table
