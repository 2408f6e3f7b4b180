"""`hemofed site studies | approve`: what the server proposes, and what a person decides."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from common.untrusted_text import one_line

if TYPE_CHECKING:
    from client.consent.approvals import Consent, SignedApprovals
    from client.consent.decisions import Decision
    from client.home import SiteHome
    from client.service.overview import Standing
    from common.config.study import Site, Study

app = typer.Typer(help="The studies that a lab takes part in.", no_args_is_help=True)

Home = Annotated[Path, typer.Argument(help="The site's home, the folder of its site.yaml.")]
By = Annotated[str | None, typer.Option(help="Who decides: a person's name; else asked for.")]


@app.command()
def approve(
    home: Home,
    study: Annotated[
        str,
        typer.Argument(help="Its name or digest, as `studies` lists it, or the operator's file."),
    ],
    by: By = None,
    purpose: Annotated[
        str | None, typer.Option(help="What the site takes part for; else asked for.")
    ] = None,
    until: Annotated[
        datetime | None,
        typer.Option(formats=["%Y-%m-%d"], help="The last day on which the approval holds."),
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Do not ask; needs --by and --purpose.")
    ] = False,
    despite_units: Annotated[
        bool,
        typer.Option(
            "--despite-units",
            help="With --yes: take part although the declared units are more than a fifth off.",
        ),
    ] = False,
    withdraw: Annotated[
        bool, typer.Option("--withdraw", help="Take an approval back instead.")
    ] = False,
) -> None:
    """Show what a study asks of this site, ask for a decision, and record the signed approval."""
    from client.consent.approvals import SignedApprovals
    from client.consent.proposals import Proposals
    from client.home import SiteHome
    from client.site import open_site

    place = SiteHome(home.absolute())
    approvals = SignedApprovals(place)
    if withdraw:
        _check_told(yes, {"--by, the person who decides": by})
        taken = approvals.withdraw(study, by or typer.prompt("Who decides"), purpose or "")
        typer.echo(f"{taken.study}: withdrawn; its next message is refused")
        return
    _check_told(yes, {"--by, the person who decides": by, "--purpose": purpose})
    end = _end(until) if until else None
    proposal = Proposals(place).find(study)
    site, asked = open_site(place.site_file), proposal.study
    members = _show(place, site, asked, approvals, lambda said: _despite(said, yes, despite_units))
    consent = _consent(site, asked, approvals, yes, (by, purpose, end, members))
    Proposals(place).keep(proposal, study)
    typer.echo(f"approved: {approvals.approve(asked, consent)}")


@app.command()
def studies(home: Home) -> None:
    """List the proposed studies: this site's answer, the state, and the exact results of the model
    on this site's own cells, which do not leave the site."""
    from client.consent.approvals import SignedApprovals
    from client.consent.explanation import protection
    from client.consent.proposals import Proposals
    from client.home import SiteHome
    from client.service.overview import overview
    from client.site import open_site
    from client.training.own_figures import read_figures

    place = SiteHome(home.absolute())
    site, approvals = open_site(place.site_file), SignedApprovals(place)
    now = overview(place)
    standing = {one.digest: one for one in now.studies}
    figures = {one.digest: one for one in read_figures(site.figures)}
    proposed = {one.study.digest: one.study for one in Proposals(place).all()}
    said = {
        digest: (one.name, protection(one.privacy), _answer(approvals, site, one))
        for digest, one in proposed.items()
    }
    for decision in _readable(approvals):
        gone = f"{_words(decision)}; its proposal is not here any more"
        said.setdefault(decision.digest, (decision.study, "", gone))
    for digest, (name, protected, answer) in said.items():
        typer.echo(f"{name} ({digest:.12})")
        facts = {
            "privacy": protected,
            "approved": answer,
            "state": _standing(standing.get(digest)),
            "own cells": figures[digest].words if digest in figures else "",
        }
        for topic, text in facts.items():
            if text:
                typer.echo(f"  {topic:<9}  {one_line(text)}")
    typer.echo(one_line(now.budget))


def _standing(one: "Standing | None") -> str:
    """The state, the round and the cost in words; "" for a study without a state."""
    return f"{one.state}, round {one.round}/{one.rounds}; spent {one.cost}" if one else ""


def _check_told(yes: bool, wanted: "dict[str, str | None]") -> None:
    """Raise ConfigError when `yes` forbids questions, and an option of `wanted` has no value."""
    from common.errors import ConfigError

    missing = [option for option, told in wanted.items() if not told]
    if yes and missing:
        raise ConfigError(f"--yes: give {' and '.join(missing)} too")


def _end(last_day: datetime) -> datetime:
    """The end of a day in local time. Raises ConfigError for a day beyond the calendar's end."""
    from common.errors import ConfigError

    try:
        return (last_day + timedelta(days=1)).astimezone()
    except (OverflowError, ValueError) as error:
        raise ConfigError(
            f"--until: {last_day:%Y-%m-%d} is out of the calendar; name an earlier day, or leave "
            "it out for an approval without an end"
        ) from error


def _show(
    place: "SiteHome",
    site: "Site",
    study: "Study",
    approvals: "SignedApprovals",
    despite: Callable[[str], bool],
) -> dict[str, str]:
    """Print what the study means for the site, and return the members' fingerprints that it shows.

    Raises:
        PrivacyError: the study cannot train here, with all reasons; or none of the site's cells
            can take part. The audit log gets a line.
        typer.Abort: the declared units are far off, and `despite` says no. The audit log gets a
            line.
    """
    from client.consent.cohort import describe, pinned
    from client.consent.explanation import explain
    from client.consent.obstacles import in_words
    from client.membership.membership import Membership
    from common.errors import PrivacyError
    from common.wire.reasons import Fault

    registry, now = Membership.load(place.folder).registry, datetime.now(UTC)
    explanation = explain(site, study, registry.active(now))
    members = describe(study, site.name, registry, approvals.seen(), now)
    for topic, text in (*explanation.topics, *members):
        Console().print(f"[bold]{topic:>12}[/bold]  {escape(one_line(text))}", soft_wrap=True)
    if explanation.obstacles:
        said = in_words(explanation.obstacles)
        approvals.decline(study, Fault(explanation.obstacles[0].reason, said))
        raise PrivacyError(f"{study.name} cannot train here: {said}")
    cells = explanation.cells
    if cells and cells.nothing:
        _declined(approvals, site, study, cells.nothing)
        raise PrivacyError(cells.nothing)
    if cells and cells.differs and not despite(cells.differs):
        _declined(approvals, site, study, cells.differs)
        raise typer.Abort
    return pinned(study, registry)


def _declined(approvals: "SignedApprovals", site: "Site", study: "Study", why: str) -> None:
    """Record that the study is not approved.

    Only the lab's own log gets the reason: it may tell how many cells there are, and the lab may
    show its audit log to the operator.
    """
    from client.lab_log import write_line
    from common.wire.reasons import Fault, Reason

    approvals.decline(study, Fault(Reason.DECLINED, "declined"))
    write_line(site.log, f"study {study.name}: declined: {why}")


def _despite(said: str, yes: bool, despite_units: bool) -> bool:
    """Whether the person takes part although the declared units are far off.

    Raises ConfigError when `yes` forbids the question, and `despite_units` is not given.
    """
    from common.errors import ConfigError

    if not yes:
        typer.echo(said)
        return typer.confirm("Take part all the same?")
    if not despite_units:
        raise ConfigError(f"{said}; to take part all the same, give --despite-units too")
    return True


def _consent(
    site: "Site",
    study: "Study",
    approvals: "SignedApprovals",
    yes: bool,
    told: tuple[str | None, str | None, datetime | None, dict[str, str]],
) -> "Consent":
    """Ask the person, unless `yes`, and return the consent.

    told: who decides, the purpose, the end, and the members' fingerprints; None: ask for it, or no
    end. Raises typer.Abort after a no, which the audit log gets.
    """
    from client.consent.approvals import Consent

    by, purpose, until, members = told
    if not yes and not typer.confirm(f"Shall {site.name} take part?"):
        _declined(approvals, site, study, "a person said no")
        raise typer.Abort
    return Consent(
        by or typer.prompt("Who decides (a person's name)"),
        purpose or typer.prompt("For which purpose"),
        members,
        until,
    )


def _answer(approvals: "SignedApprovals", site: "Site", study: "Study") -> str:
    """The site's present answer to the study, and who gave it; "not yet" before a decision."""
    from client.policy.policy import read_policy
    from common.errors import PrivacyError

    try:
        approvals.check(site, read_policy(site.policy), study)
        decision = approvals.last(study)
        return _words(decision) if decision else "not yet"
    except PrivacyError as error:
        return str(error) if _decided(approvals, study) else "not yet"


def _decided(approvals: "SignedApprovals", study: "Study") -> bool:
    """Whether a decision on the study exists, or the list of decisions cannot be read."""
    from common.errors import PrivacyError

    try:
        return approvals.lost() or approvals.last(study) is not None
    except PrivacyError:
        return True


def _readable(approvals: "SignedApprovals") -> "list[Decision]":
    """The approvals; [] when the list cannot be read, which each study's row reports."""
    from common.errors import PrivacyError

    try:
        return approvals.approved()
    except PrivacyError:
        return []


def _words(decision: "Decision") -> str:
    until = f", until {decision.until.astimezone():%Y-%m-%d %H:%M}" if decision.until else ""
    return f"yes, by {decision.by} on {decision.decided:%Y-%m-%d}, for: {decision.purpose}{until}"
