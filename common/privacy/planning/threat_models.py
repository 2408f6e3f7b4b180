"""What a site's data cost against each adversary, in local and in distributed mode.

Local: each site adds the whole noise, so whoever sees its update sees all of it. Distributed: a
secure sum shows the sites' updates only added up, and of n sites each adds Gaussian noise of
1/sqrt(n - c - d) of the whole standard deviation, so that the whole is there even when d sites drop
out of a sum and c others pool what they know and subtract their own noise (Kairouz et al. 2021,
arXiv 2102.06387; Bonawitz et al. 2017 for the sum). hemofed trains in local mode; what is
computed here of the other is a forecast, and leaves out the small term by which a sum of discrete
Gaussians differs from one (ibid., proposition 14).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from common.errors import PrivacyError
from common.privacy.accounting import epsilon
from common.privacy.events import Event, Mode


@dataclass(frozen=True, kw_only=True)
class Cohort:
    """Who shares the noise in distributed mode. Raises PrivacyError where no share is left."""

    sites: int
    """That train; n."""
    colluders: int = 1
    """Sites whose knowledge the noise withstands together; c."""
    dropouts: int = 0
    """Sites whose noise may be missing from a sum; d."""

    def __post_init__(self) -> None:
        if self.colluders < 0 or self.dropouts < 0 or self.shares < 1 or self.sites < 2:
            raise PrivacyError(
                f"cohort: {self.sites} sites, {self.colluders} colluders, {self.dropouts} "
                "dropouts; expected two sites or more, neither number below 0, and at least one "
                "site that neither colludes nor drops out"
            )

    @property
    def shares(self) -> int:
        """Sites whose noise together is the whole."""
        return self.sites - self.colluders - self.dropouts

    @property
    def relative_noise(self) -> float:
        """Noise on the sum of all sites' updates, over that of local mode."""
        return 1 / math.sqrt(self.shares)


@dataclass(frozen=True, kw_only=True)
class AdversaryView:
    """What one adversary learns of one site's data; the same for every site of the study."""

    mode: Mode
    adversary: str
    noise_multiplier: float
    """Noise multiplier of the noise that the adversary cannot subtract."""
    by_round: tuple[tuple[int, float], ...]
    """(rounds done, epsilon)."""

    @property
    def epsilon(self) -> float:
        """Epsilon of all rounds."""
        return self.by_round[-1][1]


def seen(event: Event, cohort: Cohort, insiders: int = 0, dropped: int = 0) -> Event:
    """What `event`, with the whole noise, becomes for `insiders` pooled sites in distributed mode.

    `dropped` sites, none of them the site itself, left no noise in any sum. Raises PrivacyError
    unless 0 <= insiders + dropped < cohort.sites.
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
    """Local mode's one view, then distributed mode's from the weakest adversary to the strongest.

    `event` is all of a study's steps in local mode; `rounds`, rising, is where epsilon is asked.
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

    local = view("anyone outside the site", event)
    against = _adversaries(cohort)
    return (local, *(view(name, seen(event, cohort, *who)) for name, who in against.items()))


def _adversaries(cohort: Cohort) -> dict[str, tuple[int, int]]:
    """Name -> (insiders, dropped sites)."""
    others, planned = cohort.sites - 1, (cohort.colluders, cohort.dropouts)
    found = {"the server, outsiders": (0, 0)}
    if others > 1:
        found["one other site"] = (1, 0)
    if planned not in [*found.values(), (others, 0)]:
        pooled = f"{cohort.colluders} other site{'s' * (cohort.colluders != 1)}"
        found[pooled if not cohort.dropouts else f"{pooled}, {cohort.dropouts} dropped"] = planned
    found["all other sites" if others > 1 else "the other site"] = (others, 0)
    return found
