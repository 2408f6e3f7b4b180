"""What a lost site costs by one of two protocols, in a process of its own; prints JSON.

    python -m simulations.bench.sums.dropout_contestant SIZE SITES {site,server} PROTOCOL {0,1}

Where the last argument is 1, one site is lost after the keys were agreed. By the protocol `again`,
which is hemofed's, the sum is then begun again among the others, with fresh keys, noise and masks.
By `shares`, double masking, those who are left take off the masks of the one that is away. All sign
their keys, and with `shares` who is there. A site's part is all of that from its clipped sum on;
what `again` needs afresh before it is `gradients`: the clipped sum of the units that the site
expects, for a head or, from a million numbers on, a ResNet-18 at 64 px. The server's part is from
the uploads, of which one stands for all, to their mean. "bytes / float32" are a site's, with keys,
shares and signatures.
"""

import argparse
import os

import numpy as np
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from torch import nn

from common.config.study import ModelSpec
from common.models import build
from common.privacy.clipping import clipped_gradient_sum
from common.privacy.masking.masks import add_mask
from common.privacy.masking.pairwise_keys import EphemeralKey
from common.privacy.noise import NoiseSource, add_noise
from common.wire.packed_integers import Words, pack
from server.aggregation.masked_sum import MaskedSum
from simulations.bench.clipping.contestants import losses
from simulations.bench.sums.double_masking import (
    SIGNATURE_BYTES,
    DoubleMasker,
    check,
    check_alive,
    pair_mask,
    unmask,
)
from simulations.bench.sums.masking_contestant import CLIP, UNITS, constants
from simulations.bench.sums.masking_figures import Work, tell, whole

_SITE = 1
"""The place of the site that is measured; the last one is lost."""
_LARGE, _CLASSES, _SIDE = 1_000_000, 8, 64


class Company:
    """The sites of a round, with their signing keys."""

    def __init__(self, size: int, sites: int, away: int) -> None:
        self.size, self.sites, self.alive = size, sites, range(1, sites - away + 1)
        self.signing = [Ed25519PrivateKey.generate() for _ in range(sites)]
        self.constants = constants(size, sites)

    def member(self, place: int) -> DoubleMasker:
        return DoubleMasker(place, self.sites, self.signing[place - 1])

    def noised(self, total: torch.Tensor, source: NoiseSource) -> Words:
        """The clipped sum with its share of the noise, in words."""
        values = self.constants.encode(total, 1, UNITS / self.sites)
        add_noise(values, self.constants.sigma, source)
        return self.constants.wrap(values)


def site_again(company: Company) -> Work:
    """One attempt among all, and another one among those who are left if one was lost."""
    total, source = _total(company), NoiseSource.secure()
    keys = [EphemeralKey(os.urandom(32)).public for _ in company.signing]
    signed = [one.sign(public) for one, public in zip(company.signing, keys, strict=True)]

    def attempt(sites: int) -> int:
        own = EphemeralKey(os.urandom(32))
        signature = company.signing[_SITE - 1].sign(own.public)
        pairs = []
        for place in range(_SITE + 1, sites + 1):
            public = keys[place - 1]
            company.signing[place - 1].public_key().verify(signed[place - 1], public)
            pairs.append(pair_mask(own.shared(public), _SITE, place))
        words = company.noised(total, source)
        add_mask(words, pairs)
        return len(own.public) + len(signature) + len(pack(words, company.constants.bits))

    def attempts() -> int:
        left = len(company.alive)
        return attempt(company.sites) + (attempt(left) if left < company.sites else 0)

    return whole(attempts)


def site_shares(company: Company) -> Work:
    """One round of double masking, its shares for the others and what it reveals."""
    total, source = _total(company), NoiseSource.secure()
    places = range(1, company.sites + 1)
    others = {place: company.member(place) for place in places if place != _SITE}
    known = {place: other.public for place, other in others.items()}
    agreed = {
        place: others[place].agree(company.alive) for place in company.alive if place != _SITE
    }
    away = [place for place in places if place not in company.alive]

    def round_() -> int:
        own = company.member(_SITE)
        publics = known | {_SITE: own.public}
        check(company.signing, publics, _SITE)
        dealt = own.deal(publics)
        own.receive(dealt)  # As many as come from the others, under the same keys.
        words = company.noised(total, source)
        own.mask(words, publics)
        packed = len(pack(words, company.constants.bits))
        own.agree(company.alive)
        check_alive(company.signing, agreed, company.alive)
        shares = own.reveal(company.alive, away)
        small = own.public.size + SIGNATURE_BYTES
        return packed + small + sum(map(len, [*dealt.values(), *shares.values()]))

    return whole(round_)


def site_gradients(company: Company) -> Work:
    """The clipped sum of as many units as one site expects."""
    units = round(UNITS / company.sites)
    if company.size < _LARGE:
        model: nn.Module = nn.Linear(company.size // _CLASSES, _CLASSES)
        inputs = torch.randn(units, company.size // _CLASSES)
    else:
        model = build(ModelSpec(name="resnet18"), _CLASSES, _SIDE, seed=0)
        inputs = torch.randn(units, 3, _SIDE, _SIDE)
    targets = torch.arange(units) % _CLASSES

    def clipped() -> int:
        clipped_gradient_sum(model, losses, inputs, targets, max_grad_norm=CLIP)
        return 0

    return whole(clipped)


def server_again(company: Company) -> Work:
    """The uploads of all but the lost site, in vain, and then those of the next attempt."""
    packed = _packed(company)

    def total() -> int:
        lost = len(company.alive) < company.sites
        for _ in range(1 + lost):
            masked = MaskedSum(company.size, company.constants.bits)
            for _ in company.alive:
                masked.add(packed)
        company.constants.decode(masked.total())
        return 0

    return whole(total)


def server_shares(company: Company) -> Work:
    """The uploads of all who are there, and their masks taken off by what they reveal."""
    packed, places = _packed(company), range(1, company.sites + 1)
    members = {place: company.member(place) for place in places}
    publics = {place: member.public for place, member in members.items()}
    dealt = {place: member.deal(publics) for place, member in members.items()}
    for place, member in members.items():
        member.receive({one: dealt[one][place] for one in places if one != place})
    away = [place for place in places if place not in company.alive]
    revealed = {place: members[place].reveal(company.alive, away) for place in company.alive}

    def total() -> int:
        masked = MaskedSum(company.size, company.constants.bits)
        for _ in company.alive:
            masked.add(packed)
        words = masked.total()
        unmask(words, revealed, publics)
        company.constants.decode(words)
        return 0

    return whole(total)


def _total(company: Company) -> torch.Tensor:
    total: torch.Tensor = torch.randn(company.size) / company.size**0.5
    return total


def _packed(company: Company) -> bytes:
    """An upload."""
    bits = company.constants.bits
    words = np.random.default_rng(0).integers(0, 2**bits, company.size, dtype=np.uint64)
    return pack(words.astype(company.constants.dtype), bits)


WORK = {
    ("site", "again"): site_again,
    ("site", "shares"): site_shares,
    ("site", "gradients"): site_gradients,
    ("server", "again"): server_again,
    ("server", "shares"): server_shares,
}


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("size", "sites"):
        parser.add_argument(name, type=int)
    parser.add_argument("who", choices=("site", "server"))
    parser.add_argument("protocol", choices=("again", "shares", "gradients"))
    parser.add_argument("away", type=int, choices=(0, 1))
    given = parser.parse_args()
    torch.set_num_threads(1)
    work = WORK[given.who, given.protocol](Company(given.size, given.sites, given.away))
    tell(work, given.size, given.sites if given.who == "server" else 1)


if __name__ == "__main__":
    main()
