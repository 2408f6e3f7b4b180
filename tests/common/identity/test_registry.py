"""What a site believes of a registry: the server's word, and each member's own proofs."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from common.errors import ConfigError, FederationError
from common.identity.admission_request import AdmissionRequest
from common.identity.keys import make_node_key, make_signing_key, signing_public_pem
from common.identity.registry import Member, Registry

NOW = datetime(2026, 5, 1, tzinfo=UTC)
SERVER = make_signing_key()
PUBLIC = signing_public_pem(SERVER)


def ask(
    name: str, key: Ed25519PrivateKey | None = None, old: Ed25519PrivateKey | None = None
) -> AdmissionRequest:
    return AdmissionRequest.make(name, make_node_key(), key or make_signing_key(), NOW, old)


def member(*requests: AdmissionRequest, status: Any = "active", days: int = 365) -> Member:
    return Member(status=status, not_after=NOW + timedelta(days=days), requests=requests)


def registry(version: int = 1, **sites: Member) -> Registry:
    return Registry(version=version, issued=NOW, address="localhost:1", sites=sites)


def opened(content: Registry, key: Ed25519PrivateKey = SERVER) -> Registry:
    return Registry.open(content.signed(key), PUBLIC, "registry.json")


def test_a_signed_registry_comes_back() -> None:
    content = registry(b=member(ask("b")), a=member(ask("a")))
    assert opened(content) == content
    assert list(content.active(NOW)) == ["a", "b"]


def test_only_the_servers_signature_counts() -> None:
    content = registry(a=member(ask("a")))
    with pytest.raises(FederationError, match="registry.json: the registry"):
        opened(content, make_signing_key())
    signed = content.signed(SERVER)
    for path, value in (
        (("version",), 2),
        (("address",), "evil.example:1"),
        (("sites", "a", "status"), "revoked"),
        (("sites", "a", "not_after"), "2099-01-01T00:00:00Z"),
        (("sites",), {}),
    ):
        altered = content.signed(SERVER)
        place = altered["registry"]
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
        with pytest.raises(FederationError, match="does not fit"):
            Registry.open(altered, PUBLIC, "registry.json")
    for nothing in ({}, {"registry": signed["registry"]}, {"registry": [], "signature": ""}):
        with pytest.raises(FederationError, match="is not a registry"):
            Registry.open(nothing, PUBLIC, "registry.json")


def test_even_the_server_cannot_put_keys_under_a_name_without_proof() -> None:
    honest, other = ask("a"), ask("a")
    swapped = honest.model_copy(update={"claim": other.claim})
    for wrong, said in (
        (member(swapped), "request of a: the signature does not fit"),
        (member(honest, other), "new keys of a, by the old key: the signature does not fit"),
        (member(ask("b")), "a bears a request of b; it was altered"),
    ):
        with pytest.raises(FederationError, match=said):
            opened(registry(a=wrong))
    shared = member(honest)
    again = AdmissionRequest.make("b", make_node_key(), key := make_signing_key(), NOW)
    assert opened(registry(a=shared, b=member(again)))
    twin = AdmissionRequest.make("c", make_node_key(), key, NOW)
    with pytest.raises(FederationError, match="share a key"):
        opened(registry(b=member(again), c=member(twin)))


def test_active_leaves_out_the_revoked_and_the_expired() -> None:
    content = registry(
        a=member(ask("a")), b=member(ask("b"), status="revoked"), c=member(ask("c"), days=10)
    )
    assert set(content.active(NOW)) == {"a", "c"}
    assert set(content.active(NOW + timedelta(days=10))) == {"a"}
    said = [
        content.sites[name].warnings(name, NOW + timedelta(days=days))
        for name, days in (("a", 0), ("b", 0), ("c", 0), ("c", 11))
    ]
    assert said[:2] == [(), ()]
    assert "ends in 10 days" in said[2][0] and "ended on 2026-05-11" in said[3][0]


def test_a_successor_grows_and_takes_nothing_back() -> None:
    key = make_signing_key()
    first = ask("a", key)
    rotated = member(first, ask("a", old=key))
    before = registry(2, a=member(first), b=member(ask("b"), status="revoked"))
    b = before.sites["b"]
    for fine in (
        before,
        registry(3, a=member(first), b=b, c=member(ask("c"))),
        registry(3, a=rotated, b=b),
        registry(9, a=member(first, status="revoked"), b=b),
    ):
        fine.check_follows(before)
    for wrong, why in (
        (registry(1, a=member(first), b=b), "old or a forked"),
        (registry(2, a=rotated, b=b), "old or a forked"),
        (registry(3, b=b), "a was removed"),
        (registry(3, a=member(ask("a")), b=b), "a was removed or given other keys"),
        (registry(3, a=member(first), b=member(*b.requests)), "b was revoked"),
    ):
        with pytest.raises(FederationError, match=why):
            wrong.check_follows(before)
    with pytest.raises(FederationError, match="given other keys"):
        registry(4, a=member(first), b=b).check_follows(registry(3, a=rotated, b=b))


@pytest.mark.parametrize("ahead", [0, 1, 10_000])
def test_a_registry_may_be_some_versions_ahead(ahead: int) -> None:
    registry(3 + ahead).check_follows(registry(3))


@pytest.mark.parametrize("ahead", [10_001, 2**31 - 3])
def test_a_registry_of_the_far_future_is_refused(ahead: int) -> None:
    with pytest.raises(FederationError, match="more than 10000 ahead of version 3"):
        registry(3 + ahead).check_follows(registry(3))


@pytest.mark.parametrize("version", [2**31 + 1, 2**63, 10**400])
def test_a_version_that_no_field_holds_is_no_registry(version: int) -> None:
    content = registry().model_copy(update={"version": version})
    with pytest.raises(FederationError, match="is not a registry"):
        opened(content)


def test_the_last_requests_keys_are_the_members() -> None:
    old = make_signing_key()
    requests = ask("a", old), ask("a", key := make_signing_key(), old)
    one = member(*requests)
    last = requests[-1].claim
    assert one.name == "a" and one.fingerprint == requests[-1].fingerprint
    first = member(requests[0])
    assert first.name == "a" and first.fingerprint == requests[0].fingerprint
    assert one.node_public_key == last.node_public_key.encode()
    assert one.signing_public_key == last.signing_public_key == signing_public_pem(key)


def test_a_member_without_keys_is_none() -> None:
    with pytest.raises(ValueError, match="at least 1 item"):
        member()


def test_versions_are_counted_from_one_and_addresses_are_short() -> None:
    for version in (1, 2**31):
        assert opened(registry(version)).version == version
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        registry(0)
    fields = {"version": 1, "issued": NOW}
    assert Registry(address="h" * 298 + ":1", **fields)
    with pytest.raises(ValueError, match="at most 300"):
        Registry(address="h" * 299 + ":1", **fields)


def test_a_memberships_end_is_told_of_from_30_days_before_it() -> None:
    end = NOW + timedelta(days=365)

    def said(**before: float) -> str:
        return "".join(member(ask("a")).warnings("a", end - timedelta(**before)))

    assert said(days=31) == said(days=30) == ""
    assert "a: the membership ends in 29 days, on 2027-05-01; `hemofed server renew" in said(
        days=29, hours=23
    )
    assert "ends in 1 days" in said(days=1) and "ends in 0 days" in said(seconds=0)
    assert "ended on 2027-05-01" in said(seconds=-1)


def test_a_registry_is_read_from_a_home_and_from_a_file(tmp_path: Path) -> None:
    content = registry(7, a=member(ask("a")))
    (tmp_path / "registry.json").write_text(json.dumps(content.signed(SERVER)))
    with pytest.raises(ConfigError, match=rf"{tmp_path}: is not a server's home .No such file"):
        Registry.load(tmp_path)
    (tmp_path / "signing.pub").write_text(PUBLIC)
    assert Registry.load(tmp_path) == content
    assert Registry.read(tmp_path / "registry.json", PUBLIC) == content
    (tmp_path / "signing.pub").write_text(signing_public_pem(make_signing_key()))
    with pytest.raises(FederationError, match="registry.json: the registry: the signature does"):
        Registry.load(tmp_path)
