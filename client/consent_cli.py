"""`hemofed site studies | approve`: what the server proposes, and what a person says to it."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from common.plain_text import one_line

if TYPE_CHECKING:
    from client.approvals import Consent, SignedApprovals
    from client.decisions import Decision
    from client.home import SiteHome
    from client.overview import Standing
    from common.config import Site, Study

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
        bool, typer.Option("--yes", help="Do not ask; give --by and --purpose then.")
    ] = False,
    withdraw: Annotated[
        bool, typer.Option("--withdraw", help="Take an approval back instead.")
    ] = False,
) -> None:
    """Say what a study asks of this site, ask, and record the signed approval."""
    from client.approvals import SignedApprovals
    from client.home import SiteHome
    from client.proposals import Proposals
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
    members = _show(place, site, asked, approvals)
    consent = _consent(site, asked, approvals, yes, (by, purpose, end, members))
    Proposals(place).keep(proposal, study)
    typer.echo(f"approved: {approvals.approve(asked, consent)}")


@app.command()
def studies(home: Home) -> None:
    """The studies that the server proposed, what this site says to each, and how each stands."""
    from client.approvals import SignedApprovals
    from client.explain import protection
    from client.home import SiteHome
    from client.overview import overview
    from client.proposals import Proposals
    from client.site import open_site

    place = SiteHome(home.absolute())
    site, approvals = open_site(place.site_file), SignedApprovals(place)
    now = overview(place)
    standing = {one.digest: one for one in now.studies}
    headings = ("study", "digest", "privacy", "stands", "approved")
    table = Table(*(Column(name, overflow="fold") for name in headings))
    proposed = {one.study.digest: one.study for one in Proposals(place).all()}
    for digest, one in proposed.items():
        said = escape(_answer(approvals, site, one))
        stands = _stands(standing.get(digest))
        table.add_row(one.name, digest[:12], protection(one.privacy), stands, said)
    for decision in _readable(approvals):
        if decision.digest not in proposed:
            said = f"{_words(decision)}; its proposal is not here any more"
            stands = _stands(standing.get(decision.digest))
            table.add_row(decision.study, decision.digest[:12], "not known", stands, escape(said))
    Console().print(table)
    typer.echo(one_line(now.budget))


def _stands(one: "Standing | None") -> str:
    """State, round, and what was spent, in words."""
    return f"{one.state}; round {one.round}/{one.rounds}; {one.cost} spent" if one else ""


def _check_told(yes: bool, wanted: "dict[str, str | None]") -> None:
    """Raise ConfigError when a question would have to be asked, and may not be."""
    from common.errors import ConfigError

    missing = [option for option, told in wanted.items() if not told]
    if yes and missing:
        raise ConfigError(f"--yes: give {' and '.join(missing)} too")


def _end(last_day: datetime) -> datetime:
    """When a day ends where the lab is. Raises ConfigError: no calendar reaches so far."""
    from common.errors import ConfigError

    try:
        return (last_day + timedelta(days=1)).astimezone()
    except (OverflowError, ValueError) as error:
        raise ConfigError(
            f"--until: {last_day:%Y-%m-%d} is out of the calendar; name an earlier day, or leave "
            "it out for an approval without an end"
        ) from error


def _show(
    place: "SiteHome", site: "Site", study: "Study", approvals: "SignedApprovals"
) -> dict[str, str]:
    """Print what the study means for the site; the members' fingerprints that were shown.

    Raises PrivacyError, noted in the audit log, when the site's policy refuses the study.
    """
    from client.cohort import describe, pinned
    from client.explain import explain
    from client.membership import Membership
    from common.errors import PrivacyError
    from common.reasons import Fault

    registry, now = Membership.load(place.folder).registry, datetime.now(UTC)
    explanation = explain(site, study, registry.active(now))
    members = describe(study, site.name, registry, approvals.seen(), now)
    for topic, text in (*explanation.topics, *members):
        Console().print(f"[bold]{topic:>12}[/bold]  {escape(one_line(text))}", soft_wrap=True)
    if explanation.refusal:
        reason = explanation.refusal.reason
        approvals.decline(study, Fault(reason, f"the policy refuses: {explanation.refusal}"))
        raise PrivacyError(f"{site.policy}: this site's policy refuses: {explanation.refusal}")
    return pinned(study, registry)


def _consent(
    site: "Site",
    study: "Study",
    approvals: "SignedApprovals",
    yes: bool,
    told: tuple[str | None, str | None, datetime | None, dict[str, str]],
) -> "Consent":
    """What the person says yes to; a no is noted and ends the command."""
    from client.approvals import Consent
    from common.reasons import Fault, Reason

    by, purpose, until, members = told
    if not yes and not typer.confirm(f"Shall {site.name} take part?"):
        approvals.decline(study, Fault(Reason.DECLINED, "a person said no"))
        raise typer.Abort
    return Consent(
        by or typer.prompt("Who decides (a person's name)"),
        purpose or typer.prompt("For which purpose"),
        members,
        until,
    )


def _answer(approvals: "SignedApprovals", site: "Site", study: "Study") -> str:
    """What the site says to the study at this moment, and who said so."""
    from common.errors import PrivacyError

    try:
        approvals.check(site, study)
        decision = approvals.last(study)
        return _words(decision) if decision else "not yet"
    except PrivacyError as error:
        return str(error) if _decided(approvals, study) else "not yet"


def _decided(approvals: "SignedApprovals", study: "Study") -> bool:
    """Whether the site said anything about the study, or cannot tell."""
    from common.errors import PrivacyError

    try:
        return approvals.lost() or approvals.last(study) is not None
    except PrivacyError:
        return True


def _readable(approvals: "SignedApprovals") -> "list[Decision]":
    """The approved studies; none when the list cannot be read, which each study's row says."""
    from common.errors import PrivacyError

    try:
        return approvals.approved()
    except PrivacyError:
        return []


def _words(decision: "Decision") -> str:
    until = f", until {decision.until.astimezone():%Y-%m-%d %H:%M}" if decision.until else ""
    return f"yes, by {decision.by} on {decision.decided:%Y-%m-%d}, for: {decision.purpose}{until}"
