"""The epsilon of a site's data against each adversary, in local and in distributed mode.

Local mode: each site adds the whole noise, so everyone who sees its update sees it with the whole
noise. Distributed mode: a secure sum shows only the sum of the sites' updates. Each of n sites adds
Gaussian noise of 1/sqrt(n - c - d) of the whole standard deviation. So the sum has the whole noise
even if d sites drop out of it, and c others pool their knowledge and subtract their own noise
(Kairouz et al. 2021, arXiv 2102.06387; Bonawitz et al. 2017 for the sum).

For a study in mode distributed the numbers of that mode are what it does; for one in mode local
they are a forecast. A sum of discrete Gaussians is none, but each share has a smoothing term of its
own, with which the sum is at least as private as the Gaussian that is accounted for: `noise.py`
proves it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from common.errors import PrivacyError
from common.privacy.accounting import epsilon
from common.privacy.events import Event, Mode


@dataclass(frozen=True, kw_only=True)
class Cohort:
    """The sites that share the noise in distributed mode.

    Raises:
        PrivacyError: there are fewer than two sites, a number is below 0, or no site is left that
            neither colludes nor drops out.

    >>> Cohort(sites=5).shares, Cohort(sites=5).relative_noise
    (4, 0.5)
    """

    sites: int
    """n, the number of training sites."""
    colluders: int = 1
    """c, the number of sites whose pooled knowledge the noise withstands."""
    dropouts: int = 0
    """d, the number of sites whose noise may be missing from a sum."""

    def __post_init__(self) -> None:
        if self.colluders < 0 or self.dropouts < 0 or self.shares < 1 or self.sites < 2:
            raise PrivacyError(
                f"cohort: {self.sites} sites, {self.colluders} colluders, {self.dropouts} "
                "dropouts; expected two sites or more, neither number below 0, and at least one "
                "site that neither colludes nor drops out"
            )

    @property
    def shares(self) -> int:
        """The number of sites whose noise adds up to the whole noise."""
        return self.sites - self.colluders - self.dropouts

    @property
    def relative_noise(self) -> float:
        """The noise of a site, and of the sum over all sites, divided by that of local mode."""
        return 1 / math.sqrt(self.shares)


def whole_sum(cohort: Cohort) -> float:
    """Return the noise of a sum that lacks no site, divided by the noise that was planned for.

    >>> whole_sum(Cohort(sites=4, colluders=3))
    2.0
    """
    return math.sqrt(cohort.sites / cohort.shares)


@dataclass(frozen=True, kw_only=True)
class AdversaryView:
    """The epsilon of one site's data against one adversary; the same for each site of the study."""

    mode: Mode
    adversary: str
    """The adversary in words."""
    noise_multiplier: float
    """Multiplier of the noise that the adversary cannot subtract."""
    by_round: tuple[tuple[int, float], ...]
    """(rounds done, epsilon)."""

    @property
    def epsilon(self) -> float:
        """The epsilon at the end of `by_round`."""
        return self.by_round[-1][1]


def seen(event: Event, cohort: Cohort, insiders: int = 0, dropped: int = 0) -> Event:
    """Return `event` as an adversary sees it in distributed mode.

    Args:
        event: a site's steps with the whole noise.
        cohort: the sites that share the noise.
        insiders: sites that pool their knowledge and subtract their own noise.
        dropped: sites whose noise is missing from every sum; the attacked site is not one of them.

    Raises:
        PrivacyError: `insiders` or `dropped` is below 0, or together they are all sites.
    """
    left = cohort.sites - insiders - dropped
    if insiders < 0 or dropped < 0 or left < 1:
        raise PrivacyError(
            f"seen: {insiders} insiders and {dropped} dropouts of {cohort.sites} sites; expected "
            "neither below 0, and one site left"
        )
    noise = event.noise_multiplier * math.sqrt(left / cohort.shares)
    return replace(event, noise_multiplier=noise, mode="distributed")


def views(
    event: Event, cohort: Cohort, delta: float, rounds: Sequence[int], local_steps: int
) -> tuple[AdversaryView, ...]:
    """Return the view of local mode, then those of distributed mode from weakest to strongest.

    Args:
        event: all steps of a study, with the whole noise.
        cohort: the sites that share the noise in distributed mode.
        delta: the delta of every epsilon.
        rounds: numbers of rounds after which epsilon is computed, in rising order.
        local_steps: steps per round.

    Raises:
        PrivacyError: see `epsilon`.
    """

    def view(adversary: str, seen_event: Event) -> AdversaryView:
        spent = tuple(
            (done, epsilon([replace(seen_event, steps=done * local_steps)], delta))
            for done in rounds
        )
        return AdversaryView(
            mode=seen_event.mode,
            adversary=adversary,
            noise_multiplier=seen_event.noise_multiplier,
            by_round=spent,
        )

    local = view("anyone outside the site", replace(event, mode="local"))
    against = _adversaries(cohort)
    return (local, *(view(name, seen(event, cohort, *who)) for name, who in against.items()))


def _adversaries(cohort: Cohort) -> dict[str, tuple[int, int]]:
    """Return adversary -> (insiders, dropped sites)."""
    others, planned = cohort.sites - 1, (cohort.colluders, cohort.dropouts)
    found = {"the server, outsiders": (0, 0)}
    if others > 1:
        found["one other site"] = (1, 0)
    if planned not in [*found.values(), (others, 0)]:
        pooled = f"{cohort.colluders} other site{'s' * (cohort.colluders != 1)}"
        found[pooled if not cohort.dropouts else f"{pooled}, {cohort.dropouts} dropped"] = planned
    found["all other sites" if others > 1 else "the other site"] = (others, 0)
    return found
