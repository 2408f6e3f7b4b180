"""The command `hemofed privacy plan`."""

import json
from pathlib import Path
from string import ascii_uppercase
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from common.privacy.planning.plan import PrivacyPlan

app = typer.Typer(no_args_is_help=True, help="What a study's privacy means, before it runs.")


@app.callback()
def _group() -> None:
    """Keeps `plan` a command of its own while it is the only one."""


@app.command()
def plan(
    study: Annotated[
        str, typer.Argument(help="YAML of a study or simulation, or the name of a shipped one.")
    ],
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="key=value, like privacy.epsilon=3 or variant=private; repeatable."
        ),
    ] = None,
    sites: Annotated[
        int | None,
        typer.Option(min=2, help="Sites in distributed mode. Default: the cohort's, or 5."),
    ] = None,
    colluders: Annotated[
        int | None,
        typer.Option(
            min=0, help="Sites whose pooled knowledge its noise withstands. Default: the study's."
        ),
    ] = None,
    dropouts: Annotated[
        int | None,
        typer.Option(
            min=0, help="Sites whose noise may be missing from a sum. Default: the study's."
        ),
    ] = None,
    figure: Annotated[Path | None, typer.Option(help="Also draw the plan as a PNG.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Show the noise, epsilon by round, other choices, and what they mean for a patient."""
    from common.config.loading import find, read_study
    from common.privacy.planning.plan import cohort_of, make_plan

    asked = read_study(find(study, "simulations"), settings or [])
    cohort = cohort_of(asked, sites, colluders, dropouts)
    with Console(stderr=True).status("composing privacy losses (about half a minute)"):
        made = make_plan(asked, cohort)
    if figure is not None:
        from common.privacy.planning.figure import draw

        draw(made, figure)
    if as_json:
        typer.echo(json.dumps(made.as_dict(), indent=2))
    else:
        _print(made, Console())


def _print(made: "PrivacyPlan", console: Console) -> None:
    console.print(f"[bold]{made.study}[/bold] ({made.digest[:12]})", highlight=False)
    console.print(
        f"noise multiplier {made.noise_multiplier:.5g} on gradients clipped to "
        f"{made.max_grad_norm:g}: epsilon {made.epsilon:.4g} at delta {made.delta:g} after "
        f"{_asked(made)} of {made.local_steps} steps (asked: {made.epsilon_asked:g}; the "
        f"live gate's RDP bound: {made.epsilon_rdp:.4g})"
    )
    console.print(f"per {made.unit}: {made.adjacency}")
    console.print(f"composed by {made.accountant}")
    console.print(f"{_steps(made)}\n", highlight=False)
    for text in (_against(made), _sharing(made), _rounds(made), _choices(made), _patients(made)):
        console.print(text)
    console.print(f"\nscores: {_scores(made)}", highlight=False)
    if made.statistics is not None:
        console.print(f"statistics: {made.statistics.words}", highlight=False)
    for doubt in made.doubts:
        console.print(doubt, style="yellow", markup=False)


def _steps(made: "PrivacyPlan") -> str:
    """Return a sentence on how many units a step has, and how many it needs."""
    told = ", ".join(f"{name} {_rounded(units)}" for name, units in made.units.items())
    here = f"; of the cohort: {told}" if told else ""
    from common.privacy.planning.plausibility import MANY_PARAMETERS

    units = made.enough / made.sample_rate
    whose = "of all sites is longer than their"
    if made.enough_of == "a site":
        whose = "of a site alone is longer than its"
    return (
        f"{made.unit}s in a step: {made.sample_rate:g} of a site's{here}; below "
        f"{_rounded(made.enough)}, of {_rounded(units)} {made.unit}s, the noise {whose} gradients "
        f"of {MANY_PARAMETERS:,} parameters can be. Delta is to be well below 1 in as many as a "
        "site has"
    )


def _rounded(number: float) -> str:
    return f"{number:,.0f}" if number >= 10 else f"{number:.2g}"


def _asked(made: "PrivacyPlan") -> str:
    """Return in words the number of rounds that the noise is calibrated for."""
    spare = f" and {made.spare_rounds} spare" if made.spare_rounds else ""
    return f"{made.rounds}{spare} rounds"


def _against(made: "PrivacyPlan") -> Table:
    table = Table("", "mode", "against", title="Each site's epsilon, by who attacks it")
    for name in ("noise", f"epsilon after {_asked(made)}"):
        table.add_column(name, justify="right")
    for letter, view in zip(ascii_uppercase, made.views, strict=False):
        numbers = (f"{view.noise_multiplier:.4g}", f"{view.epsilon:.4g}")
        table.add_row(letter, view.mode, view.adversary, *numbers)
    return table


def _sharing(made: "PrivacyPlan") -> str:
    cohort = made.cohort
    return (
        "local: each site adds the whole noise by itself.\n"
        f"distributed: each of {cohort.sites} sites (others: --sites N) adds "
        f"1/sqrt({cohort.shares}) of it (colluders: {cohort.colluders}, dropouts: "
        f"{cohort.dropouts}), so that their sum has {cohort.relative_noise:.0%} of local mode's "
        f"noise.\n{made.distributed}\n"
    )


def _rounds(made: "PrivacyPlan") -> Table:
    table = Table(title="Epsilon by round")
    for name in ("rounds done", *ascii_uppercase[: len(made.views)]):
        table.add_column(name, justify="right")
    for row, (rounds, _) in enumerate(made.views[0].by_round):
        table.add_row(str(rounds), *(f"{view.by_round[row][1]:.4g}" for view in made.views))
    return table


def _choices(made: "PrivacyPlan") -> Table:
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
        "noise on a step's mean gradient over all sites (of one size) against this plan's; "
        "epsilon: with this plan's multiplier"
    )
    return table


def _scores(made: "PrivacyPlan") -> str:
    if made.scores is None:
        return "how sharp noised ones will be is told where the cohort names the sites' units"
    return made.scores.words


def _patients(made: "PrivacyPlan") -> Table:
    table = Table("images of a patient", "epsilon of that patient", title="For a patient")
    for images, value in made.by_patient:
        table.add_row(str(images), f"{value:.4g}")
    if made.unit == "image":
        table.caption = "Every image of the patient counts (arXiv 2401.10294)."
    else:
        table.caption = "The patient is the unit: more images cost no more."
    return table
