"""Prints an audit for people to read."""

from rich.console import Console
from rich.table import Table

from simulations.privacy_audit.audit import Audit
from simulations.privacy_audit.membership_inference import FALSE_ALARMS, MembershipAttack


def print_audit(audit: Audit, console: Console) -> None:
    """Print the claim and the bounds."""
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


def print_membership(found: MembershipAttack, console: Console) -> None:
    """Print what the shadow models show."""
    table = Table(
        "training", "area under ROC (chance 0.5)", f"true positives at {FALSE_ALARMS:.0%} false"
    )
    table.title = f"Membership of {found.cells} rendered cells, {found.models} shadow models (LiRA)"
    for name, inferred in (("as the study", found.private), ("without privacy", found.plain)):
        table.add_row(
            name,
            f"{inferred.area:.3f} ({_range(inferred.area_interval, '.3f')})",
            f"{inferred.true_positives:.1%} ({_range(inferred.true_positives_interval, '.1%')})",
        )
    console.print(table)


def print_verdict(audit: Audit, console: Console) -> None:
    """Print whether the audit passed, and if not, what to do."""
    console.print(_verdict(audit))


def _range(pair: tuple[float, float], form: str) -> str:
    return f"{pair[0]:{form}} to {pair[1]:{form}}"


def _tests(audit: Audit) -> Table:
    table = Table(title=f"Lower bounds, together at {audit.confidence:.4g} confidence")
    for name in ("bound", "right guesses", "p of the claim", "epsilon >", "claimed"):
        table.add_column(name)
    for test in audit.tests:
        table.add_row(
            f"{test.name}\n[dim]{test.assumes}[/dim]",
            f"{test.correct} of {test.guesses}",
            f"{test.p_value:.2g}",
            f"{test.epsilon_lower:.3g}",
            f"{audit.epsilon_upper:.3g}",
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
        f"accountant claims {audit.epsilon_upper:.3g}. Training does not do what is accounted "
        "for: release nothing, and look at the noise, the clipping and the sampling. (By chance "
        f"{1 - audit.confidence:.2g} of honest audits fail, at most: repeat it, or raise "
        "--confidence.)"
    )
