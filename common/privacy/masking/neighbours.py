"""Who masks with whom: all with all, or, where sites are many, along a random graph.

What the masks hide is the parts of a sum over sites that are joined, through honest sites, by
masks: so the graph of the honest sites must be connected. The graph is Harary's on a random order
of the sites, as in Bell, Bonawitz, Gascon, Lepoint and Raykova (CCS 2020, ePrint 2020/704): all
stand on a ring, and each masks with the degree / 2 next to it on either side.
"""

import hmac
from collections.abc import Sequence
from fractions import Fraction

from common.errors import PrivacyError


def neighbours(cohort: Sequence[str], seed: bytes, degree: int | None) -> dict[str, frozenset[str]]:
    """Site -> the sites that it masks with; each is also masked with by them.

    A `degree` of None joins all with all, as does one of at least len(cohort) - 1. The order of
    `cohort` does not matter; `seed` fixes the ring.

    What is assumed: that no colluder chose the seed, or its name, knowing the other. `degree_for`
    bounds one draw: who can try n seeds multiplies its failure by n.

    Raises PrivacyError for a site that is named twice, and a degree that is odd or below 2.

    >>> neighbours(["a", "b", "c"], b"", None)["a"] == {"b", "c"}
    True
    """
    if len(set(cohort)) < len(cohort):
        raise PrivacyError(f"a cohort names a site twice: {', '.join(sorted(cohort))[:200]}")
    if degree is None or degree >= len(cohort) - 1:
        everyone = frozenset(cohort)
        return {site: everyone - {site} for site in cohort}
    if degree < 2 or degree % 2:
        raise PrivacyError(f"degree={degree}: expected an even number of at least 2")
    ring = sorted(cohort, key=lambda site: hmac.digest(seed, site.encode(), "sha256"))
    steps = [step for step in range(-degree // 2, degree // 2 + 1) if step]
    return {
        site: frozenset(ring[(place + step) % len(ring)] for step in steps)
        for place, site in enumerate(ring)
    }


def degree_for(sites: int, colluders: int, failure: float = 2.0**-40) -> int:
    """The least even degree that leaves the honest sites connected but with chance `failure`.

    Or sites - 1, all with all, where that is no more. `colluders` of the `sites` are not honest;
    who they are does not depend on the ring.

    Formal guarantees: with h = degree / 2, two honest sites that follow each other on the ring are
    neighbours unless h or more colluders stand between them. With one such gap the honest sites
    still make a path, so where they are not connected there are two: two disjoint arcs, each an
    honest site and the h colluders behind it. There are n (n - 2 h - 1) / 2 pairs of disjoint arcs
    of h + 1 places on a ring of n, and each is so filled with probability
    c (c - 1) ... (c - 2 h + 1) (n - c) (n - c - 1) / n (n - 1) ... (n - 2 h - 1). Their product
    bounds the chance.

    Raises PrivacyError unless 0 <= colluders <= sites and 0 < failure < 1.

    >>> degree_for(sites=1000, colluders=333)
    36
    """
    if not (0 <= colluders <= sites and 0 < failure < 1):
        raise PrivacyError(
            f"degree_for(sites={sites}, colluders={colluders}, failure={failure}): expected "
            "0 <= colluders <= sites and 0 < failure < 1"
        )
    honest = sites - colluders
    chance = Fraction(1)
    for degree in range(2, sites - 1, 2):
        left, others = sites - degree, colluders - degree
        chance *= Fraction((others + 2) * (others + 1), (left + 2) * (left + 1))
        last = Fraction(honest * (honest - 1), left * (left - 1))
        if Fraction(sites * (left - 1), 2) * chance * last <= failure:
            return degree
    return max(sites - 1, 0)
