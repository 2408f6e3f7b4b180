"""An audit for a person to read."""

from rich.console import Console
from rich.table import Table

from simulations.audit.audit import Audit


def print_audit(audit: Audit, console: Console) -> None:
    """The claim, the bounds, the verdict."""
    console.print(f"[bold]{audit.study}[/bold] ({audit.digest[:12]})", highlight=False)
    console.print(
        f"claimed: epsilon {audit.epsilon_upper:.4g} at delta {audit.delta:g}, by "
        f"{audit.accountant}; {audit.steps} steps, rate {audit.sample_rate:g}, noise multiplier "
        f"{audit.noise_multiplier:.4g}"
    )
    console.print(f"per {audit.unit}: {audit.adjacency}")
    console.print(
        f"attacked with {audit.canaries} canaries, each in by a fair coin, in one run of all rounds"
    )
    for table in (_tests(audit), _views(audit)):
        console.print(table)
    console.print(_verdict(audit))


def _tests(audit: Audit) -> Table:
    table = Table(title=f"Lower bounds, together at {audit.confidence:.4g} confidence")
    for name in ("bound", "right guesses", "p of the claim", "epsilon >", "claimed", "assumes"):
        table.add_column(name)
    for test in audit.tests:
        table.add_row(
            test.name,
            f"{test.correct} of {test.guesses}",
            f"{test.p_value:.2g}",
            f"{test.epsilon_lower:.3g}",
            f"{audit.epsilon_upper:.3g}",
            test.assumes,
        )
    return table


def _views(audit: Audit) -> Table:
    table = Table("what the adversary sees", "right guesses", "epsilon >", title="Adversaries")
    for view in audit.views:
        table.add_row(view.name, f"{view.accuracy:.1%}", f"{view.epsilon_lower:.3g}")
    return table


def _verdict(audit: Audit) -> str:
    if audit.passed:
        return (
            f"[green]passed[/green]: epsilon is above {audit.epsilon_lower:.3g} and claimed to be "
            f"at most {audit.epsilon_upper:.3g}"
        )
    return (
        f"[red]FAILED[/red]: the attack shows epsilon above {audit.epsilon_lower:.3g}, the "
        f"accountant claims {audit.epsilon_upper:.3g}. Training does not do what is accounted for: "
        "release nothing, and look at the noise, the clipping and the sampling"
    )
