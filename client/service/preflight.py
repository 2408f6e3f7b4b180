"""Whether a site is ready: one line for each topic, with what to do where something is wrong."""

import shutil
import ssl
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from threading import Event
from typing import Literal

import httpx
import torch

from client.consent.approvals import SignedApprovals
from client.consent.decisions import Decision
from client.fleet_api.clock_skew import is_refused, skew
from client.fleet_api.fleet_client import FleetLink, ShutOutError
from client.fleet_api.proxy import client_to, unreached
from client.fleet_api.tls import out_of_date
from client.home import SiteHome
from client.ledger.binding import open_ledger
from client.ledger.data_mark import images_of
from client.ledger.rollback import check_own_ledger
from client.ledger.summary import beside_epsilon, left
from client.membership.membership import Membership
from client.policy.policy import read_policy
from client.service.preflight_cells import look_at_cells
from client.service.preflight_studies import look_at_studies, studies_of
from client.service.service import runs
from client.service.worker import Runner, RunnerDiedError
from client.site import open_site
from client.training.selftest import check_alone
from common.config.study import Site
from common.device import resolve
from common.disk_space import check_room
from common.errors import ConfigError, FederationError, HemofedError
from common.file_permissions import check_ours
from common.text import count

Verdict = Literal["ok", "warning", "wrong"]

_SKEW_WARNING = 3.0
_LEAST_DISK = 5 * 2**30
_SECONDS = 5.0
_RUNNER_SECONDS = 120.0
"""For the runner's start: torch may load from a slow disk."""


@dataclass(frozen=True)
class Line:
    """One topic of the check, with its verdict."""

    topic: str
    verdict: Verdict
    text: str
    """What is there, or what to do."""


Check = Callable[[SiteHome, Site], tuple[Verdict, str]]


def check_site(home: SiteHome) -> list[Line]:
    """Check every topic, and return one line for each.

    A topic whose check fails with an error is "wrong", and the other topics are checked all the
    same. Raises ConfigError when there is no readable site.yaml, which every check needs.
    """
    site = open_site(home.site_file)
    lines = [_line(topic, check, home, site) for topic, check in _CHECKS.items()]
    first = {line.text: line.topic for line in reversed(lines)}
    return [_once(line, first[line.text]) for line in lines]


def _once(line: Line, topic: str) -> Line:
    """The line, which refers to `topic` if that earlier topic has the same text."""
    return line if line.topic == topic else replace(line, text=f"as for {topic}, above")


def _line(topic: str, check: Check, home: SiteHome, site: Site) -> Line:
    try:
        return Line(topic, *check(home, site))
    except (HemofedError, OSError, httpx.HTTPError) as error:
        return Line(topic, "wrong", str(error))


def _cells(home: SiteHome, site: Site) -> tuple[Verdict, str]:
    return look_at_cells(site)


def _policy(home: SiteHome, site: Site) -> tuple[Verdict, str]:
    policy = read_policy(site.policy)
    said = (
        f"epsilon {policy.lifetime_epsilon:g} for life, {policy.study_epsilon:g} a study, at delta "
        f"{policy.delta:g}; protects each {policy.unit}; noise at least "
        f"{policy.min_noise_multiplier:g}, gradients clipped at {policy.max_grad_norm:g} at most, "
        f"weights up to {policy.max_weight:g}, "
        f"{count(policy.min_cohort, 'site')} or more that train, at most "
        f"{count(policy.max_rounds, 'round')}; metrics: {policy.metrics}; at most "
        f"{policy.gpu_memory_share:.0%} of a GPU's memory"
    )
    if policy.without_privacy:
        return "warning", f"{said}; studies WITHOUT privacy may train here (without_privacy: true)"
    return "ok", said


def _hours(home: SiteHome, site: Site) -> tuple[Verdict, str]:
    policy, now = read_policy(site.policy), datetime.now()
    if not policy.hours:
        return "ok", "computes at any time"
    state = "in" if policy.computes_at(now) else "outside, so it sits out"
    return "ok", f"{', '.join(policy.hours)} by the local clock; at {now:%a %H:%M} {state}"


def _ledger(home: SiteHome, site: Site) -> tuple[Verdict, str]:
    policy = read_policy(site.policy)
    check_own_ledger(site, home.audit)
    with open_ledger(site) as ledger:
        rows = ledger.verify()
        remains = left(ledger, policy.delta, policy.lifetime_epsilon)
        beside = beside_epsilon(len(ledger.rows("unprotected")))
    said = f"{count(rows, 'row')}, all sound; epsilon {remains:.3g} is left for one more study"
    if beside:
        return ("warning" if remains > 0 else "wrong"), f"{said}; {beside}"
    return ("ok" if remains > 0 else "wrong"), said


def _home(home: SiteHome, site: Site) -> tuple[Verdict, str]:
    home.check_ours(site)
    try:
        check_ours(*images_of(site))
    except ConfigError as error:
        return "warning", f"the next `hemofed data index` reads what others put there: {error}"
    return "ok", "nobody else can write what this site goes by"


def _approvals(home: SiteHome, site: Site) -> tuple[Verdict, str]:
    approved = _approved(home)
    said = ", ".join(f"{one.study} ({one.digest:.12})" for one in approved)
    return "ok", f"{count(len(approved), 'study', 'studies')} approved{': ' if said else ''}{said}"


def _approved(home: SiteHome) -> list[Decision]:
    """The approvals that have not ended."""
    return [one for one in SignedApprovals(home).approved() if not one.ended(datetime.now(UTC))]


def _identity(home: SiteHome, site: Site) -> tuple[Verdict, str]:
    membership = Membership.load(home.folder)
    membership.node_key()
    membership.signing_key()
    if membership.name != site.name:
        return "wrong", f"site.yaml says {site.name}, the identity {membership.name}"
    warnings = membership.warnings(datetime.now(UTC))
    if warnings:
        return "warning", "; ".join(warnings)
    return "ok", f"{membership.name}, a member until {membership.member.not_after:%Y-%m-%d}"


def _connection(home: SiteHome, site: Site) -> tuple[Verdict, str]:
    """The server's TLS, the two clocks, and whether the server knows this site's key."""
    membership = Membership.load(home.folder)
    try:
        with client_to(membership.address, membership.authority, _SECONDS) as client:
            response = client.get(f"https://{membership.address}/health")
    except (httpx.TransportError, ssl.SSLError) as error:
        fault = out_of_date(error, membership.address, membership.authority)
        raise FederationError(fault or unreached(membership.address, error)) from error
    ahead = skew(response)
    said = f"{membership.address} answers {response.status_code}"
    if response.status_code != 200 or ahead is None:
        return "wrong", f"{said}; ask the operator"
    said += f"; this clock is {ahead:+.0f} s off"
    if is_refused(ahead):
        return "wrong", f"{said}, and the server refuses its signatures; set it with NTP"
    _check_known(membership)
    said += "; it knows this site's key"
    return ("warning" if abs(ahead) > _SKEW_WARNING else "ok"), said


def _check_known(membership: Membership) -> None:
    """Raise FederationError, in the words of `site start`, when the server shuts this site out."""
    key = membership.node_key()
    link = FleetLink(membership.address, membership.authority, key, Event())
    with closing(link):
        try:
            link.check_known()
        except ShutOutError as error:
            raise membership.shut_out(error, datetime.now(UTC)) from error


def _disk(home: SiteHome, site: Site) -> tuple[Verdict, str]:
    check_room(home.folder)
    free = shutil.disk_usage(home.folder).free
    verdict: Verdict = "ok" if free >= _LEAST_DISK else "warning"
    return verdict, f"{free / 2**30:,.1f} GiB free; {_LEAST_DISK / 2**30:.0f} are enough"


def _device(home: SiteHome, site: Site) -> tuple[Verdict, str]:
    if site.runtime.device == "cpu":
        return "ok", f"CPU, {count(site.runtime.threads, 'thread')}"
    device = resolve(site.runtime.device)
    if device.type == "cpu":
        return "ok", "no CUDA device is seen by PyTorch; the CPU trains"
    free, total = torch.cuda.mem_get_info(device)
    name = torch.cuda.get_device_name(device)
    return "ok", f"{name}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free"


def _runner(home: SiteHome, site: Site) -> tuple[Verdict, str]:
    try:
        Runner(home.site_file, home.runner_log).try_out(_RUNNER_SECONDS)
    except RunnerDiedError as death:
        return "wrong", str(death)
    return "ok", "the process that opens the cells starts, and loads all it needs"


def _kernels(home: SiteHome, site: Site) -> tuple[Verdict, str]:
    """Run the self-test of each approved private study on this device."""
    studies = studies_of(home, sorted(_approved(home), key=lambda one: one.digest))
    private = [study for study in studies if study.privacy.mode != "none"]
    if not private:
        return "ok", "no private study is approved, so there is no model to ask"
    before = torch.get_num_threads()
    torch.set_num_threads(site.runtime.threads)
    try:
        for study in private:
            check_alone(site, study)
    finally:
        torch.set_num_threads(before)
    names = ", ".join(study.name for study in private)
    return "ok", f"compute each cell the same in any company, for {names}"


def _service(home: SiteHome, site: Site) -> tuple[Verdict, str]:
    if home.paused.exists():
        return "warning", "paused: sits out of each round until `hemofed site resume`"
    return "ok", "runs" if runs(home) else "does not run; `hemofed site start`"


_CHECKS: dict[str, Check] = {
    "home": _home,
    "cells": _cells,
    "policy": _policy,
    "hours": _hours,
    "ledger": _ledger,
    "identity": _identity,
    "approvals": _approvals,
    "studies": look_at_studies,
    "connection": _connection,
    "disk": _disk,
    "device": _device,
    "runner": _runner,
    "kernels": _kernels,
    "service": _service,
}
