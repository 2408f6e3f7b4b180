"""Who masks with whom: symmetric, regular, and connected without the colluders."""

import math
import random
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import PrivacyError
from common.privacy.masking.neighbours import degree_for, neighbours

SEEDS = st.binary(min_size=1, max_size=40)


def sites(count: int) -> list[str]:
    return [f"lab-{number}" for number in range(count)]


def connected(graph: dict[str, frozenset[str]], left: set[str]) -> bool:
    reached, ahead = set(), [min(left)]
    while ahead:
        site = ahead.pop()
        if site not in reached:
            reached.add(site)
            ahead += graph[site] & left
    return reached == left


@given(count=st.integers(1, 80), degree=st.none() | st.integers(1, 20), seed=SEEDS)
def test_a_graph_is_symmetric_regular_and_connected(
    count: int, degree: int | None, seed: bytes
) -> None:
    degree = degree and 2 * degree
    graph = neighbours(sites(count), seed, degree)
    assert set(graph) == set(sites(count))
    expected = count - 1 if degree is None else min(degree, count - 1)
    for site, others in graph.items():
        assert len(others) == expected and site not in others
        assert all(site in graph[other] for other in others)
    assert connected(graph, set(graph))


def test_a_ring_goes_up_to_all_but_one() -> None:
    assert {len(others) for others in neighbours(sites(10), b"", 8).values()} == {8}
    assert {len(others) for others in neighbours(sites(9), b"", 8).values()} == {8}
    assert {len(others) for others in neighbours(sites(9), b"", 10).values()} == {8}


@given(seed=SEEDS, shuffle=st.randoms())
def test_the_order_of_the_cohort_does_not_matter(seed: bytes, shuffle: random.Random) -> None:
    cohort = sites(50)
    expected = neighbours(cohort, seed, 6)
    shuffle.shuffle(cohort)
    assert neighbours(cohort, seed, 6) == expected


def test_the_graph_of_a_seed_is_the_same_on_every_machine() -> None:
    graph = neighbours(sites(40), b"a seed", 4)
    assert graph["lab-0"] == {"lab-13", "lab-18", "lab-24", "lab-39"}


def test_every_pair_of_sites_meets_equally_often() -> None:
    """Over seeds: with 40 sites of degree 4, two of them are neighbours with chance 4 / 39."""
    draws = 4000
    met = [0] * 40
    for seed in range(draws):
        for other in neighbours(sites(40), b"%d" % seed, 4)["lab-7"]:
            met[int(other.split("-")[1])] += 1
    rate = 4 / 39
    deviation = math.sqrt(draws * rate * (1 - rate))
    assert met.pop(7) == 0
    assert all(abs(count - draws * rate) < 4.5 * deviation for count in met)


@pytest.mark.parametrize("degree", [1, 3, 0, -2])
def test_a_degree_that_no_ring_has_is_refused(degree: int) -> None:
    with pytest.raises(PrivacyError, match=f"degree={degree}"):
        neighbours(sites(10), b"", degree)


def test_a_site_that_is_named_twice_is_refused() -> None:
    with pytest.raises(PrivacyError, match="names a site twice: a, a, b"):
        neighbours(["a", "b", "a"], b"", None)


@pytest.mark.parametrize(("count", "colluders"), [(12, 5), (20, 10), (40, 30)])
@pytest.mark.parametrize("failure", [0.3, 0.05])
def test_honest_sites_are_apart_as_seldom_as_the_bound_says(
    count: int, colluders: int, failure: float
) -> None:
    degree = degree_for(count, colluders, failure)
    draws = 2000
    apart = sum(
        not connected(neighbours(sites(count), b"%d" % seed, degree), set(sites(count)[colluders:]))
        for seed in range(draws)
    )
    assert apart <= draws * failure + 4 * math.sqrt(draws * failure)
    if degree > 2:
        less = sum(
            not connected(neighbours(sites(count), b"%d" % seed, 2), set(sites(count)[colluders:]))
            for seed in range(draws)
        )
        assert less > draws * failure, "a ring would not have done"


@pytest.mark.parametrize("failure", [0.3, 0.05, 2.0**-10, 2.0**-20])
def test_the_degree_is_the_least_that_the_bound_allows(failure: float) -> None:
    for count in range(25):
        for colluders in range(count + 1):
            allowed = (
                degree
                for degree in range(2, count - 1, 2)
                if bound(count, colluders, degree) <= Fraction(failure)
            )
            expected = next(allowed, max(count - 1, 0))
            assert degree_for(count, colluders, failure) == expected, (count, colluders)


def bound(count: int, colluders: int, degree: int) -> Fraction:
    """Pairs of arcs times the chance that both are an honest site and degree / 2 colluders."""
    chance = Fraction(math.perm(colluders, degree) * math.perm(count - colluders, 2))
    return chance / math.perm(count, degree + 2) * Fraction(count * (count - degree - 1), 2)


def test_degrees_that_the_documents_name() -> None:
    assert degree_for(100, 33) == 26
    assert (degree_for(100, 15), degree_for(100, 15, 2.0**-39)) == (16, 14)
    assert (degree_for(100, 29), degree_for(100, 29, 2.0**-41)) == (22, 24)
    assert degree_for(1000, 100) == 18
    assert degree_for(1000, 333) == 36
    assert degree_for(1000, 0) == 2, "against the server alone a ring does"
    assert degree_for(100, 98) == 99, "all with all"
    assert degree_for(2, 0) == 1


@pytest.mark.parametrize(
    ("count", "colluders", "failure"), [(10, -1, 0.1), (10, 11, 0.1), (10, 2, 0.0), (10, 2, 1.0)]
)
def test_a_chance_of_nothing_is_refused(count: int, colluders: int, failure: float) -> None:
    with pytest.raises(PrivacyError, match="expected 0 <= colluders <= sites"):
        degree_for(count, colluders, failure)
