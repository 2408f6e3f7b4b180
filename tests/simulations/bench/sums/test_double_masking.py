"""Double masking, as it is measured, is the protocol; and the contestants do all of it."""

import random

import numpy as np
import pytest
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from common.wire.packed_integers import Words
from simulations.bench.own_figures import Stopwatch
from simulations.bench.sums import dropout_contestant
from simulations.bench.sums.double_masking import (
    DoubleMasker,
    check,
    check_alive,
    threshold,
    unmask,
)
from simulations.bench.sums.dropout_contestant import WORK, Company
from simulations.bench.sums.shamir import PRIME, combine, split, weights_at_zero

SECRETS = st.binary(min_size=32, max_size=32) | st.sampled_from([bytes(32), b"\xff" * 32])


def test_the_field_is_one() -> None:
    assert all(pow(base, PRIME - 1, PRIME) == 1 for base in (2, 3, 5, 7, 11))


@given(secret=SECRETS, needed=st.integers(1, 12), more=st.integers(0, 6), order=st.randoms())
@settings(max_examples=60)
def test_as_many_shares_as_are_needed_give_the_secret_and_fewer_do_not(
    secret: bytes, needed: int, more: int, order: random.Random
) -> None:
    shares = split(secret, needed, needed + more)
    places = tuple(order.sample(sorted(shares), needed))
    assert combine(shares, weights_at_zero(places)) == secret
    if needed > 1:
        assert combine_or_none(shares, places[1:]) != secret


def combine_or_none(shares: dict[int, bytes], places: tuple[int, ...]) -> bytes | None:
    """What too few shares give: other bytes, or a number that has no 32 bytes."""
    try:
        return combine(shares, weights_at_zero(places))
    except OverflowError:
        return None


def _members(sites: int) -> tuple[list[Ed25519PrivateKey], dict[int, DoubleMasker]]:
    signing = [Ed25519PrivateKey.generate() for _ in range(sites)]
    members = {
        place: DoubleMasker(place, sites, signing[place - 1]) for place in range(1, sites + 1)
    }
    publics = {place: member.public for place, member in members.items()}
    dealt = {place: member.deal(publics) for place, member in members.items()}
    for place, member in members.items():
        member.receive({one: dealt[one][place] for one in members if one != place})
    return signing, members


@given(sites=st.integers(3, 8), away=st.integers(0, 2), seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
@pytest.mark.parametrize("dtype", [np.uint32, np.uint64])
def test_the_masks_come_off_the_sum_of_those_who_are_there(
    dtype: type[np.unsignedinteger], sites: int, away: int, seed: int
) -> None:
    away = min(away, sites - threshold(sites))
    _, members = _members(sites)
    publics = {place: member.public for place, member in members.items()}
    alive = sorted(random.Random(seed).sample(sorted(members), sites - away))
    rng, plain, total = np.random.default_rng(seed), np.zeros(9, dtype), np.zeros(9, dtype)
    for place in alive:
        words: Words = rng.integers(0, 2**32, 9, dtype=dtype)
        plain += words
        members[place].mask(words, publics)
        total += words
    lost = [place for place in members if place not in alive]
    assert not np.any(total == plain)
    unmask(total, {place: members[place].reveal(alive, lost) for place in alive}, publics)
    assert np.array_equal(total, plain)


def test_signatures_and_sealed_shares_are_checked() -> None:
    signing, members = _members(3)
    publics = {place: member.public for place, member in members.items()}
    check(signing, publics, own=1)
    with pytest.raises(InvalidSignature):
        check(signing, publics | {2: publics[3]}, own=1)
    there = [1, 2]
    signed = {place: members[place].agree(there) for place in there}
    check_alive(signing, signed, there)
    with pytest.raises(InvalidSignature):
        check_alive(signing, signed, [1, 2, 3])
    with pytest.raises(InvalidTag):
        members[1].receive({2: members[3].deal(publics)[1]})


@pytest.mark.parametrize("away", [0, 1])
def test_a_site_says_all_that_it_sends(away: int) -> None:
    size, sites = 1_000, 5
    company = Company(size, sites, away)
    packed, keys, signature, share = 4 * size, 32, 64, 33
    assert company.constants.bits == 32
    sent = WORK["site", "again"](company)(Stopwatch())
    assert sent == (1 + away) * (packed + keys + signature)
    sealed = (sites - 1) * (12 + 2 * share + 16)
    sent = WORK["site", "shares"](company)(Stopwatch())
    assert sent == packed + 2 * keys + 2 * signature + sealed + sites * share


@pytest.mark.parametrize("protocol", ["again", "shares"])
@pytest.mark.parametrize("away", [0, 1])
def test_the_server_adds_the_uploads_of_those_who_are_there(
    monkeypatch: pytest.MonkeyPatch, protocol: str, away: int
) -> None:
    added: list[int] = []

    class Counted(dropout_contestant.MaskedSum):
        def add(self, data: bytes | memoryview) -> None:
            added.append(len(data))
            super().add(data)

    monkeypatch.setattr(dropout_contestant, "MaskedSum", Counted)
    WORK["server", protocol](Company(1_000, 5, away))(Stopwatch())
    assert added == [4_000] * ((1 + away) * (5 - away) if protocol == "again" else 5 - away)


@pytest.mark.parametrize("size", [800, 1_000_000])
def test_the_gradients_are_those_of_a_sites_units(
    monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    asked: list[tuple[int, int]] = []

    def clipped(model: nn.Module, _: object, inputs: Tensor, targets: Tensor, **__: float) -> None:
        numbers = sum(parameter.numel() for parameter in model.parameters())
        asked.append((len(inputs), numbers))
        assert model(inputs[:2]).shape == (2, 8) and len(targets) == len(inputs)

    monkeypatch.setattr(dropout_contestant, "clipped_gradient_sum", clipped)
    WORK["site", "gradients"](Company(size, 8, 1))(Stopwatch())
    ((units, numbers),) = asked
    assert units == 512 / 8 and numbers == (808 if size == 800 else pytest.approx(11.2e6, rel=0.01))
