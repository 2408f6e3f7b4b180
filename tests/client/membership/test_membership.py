"""A site's way into a consortium, and what it refuses on the way and later."""

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from client.membership.enrolment import join, make_site, read_kit, read_request, rotate_keys
from client.membership.membership import Membership
from common.audit.log import verify
from common.config.loading import load
from common.config.study import Site
from common.errors import ConfigError, FederationError
from common.identity.admission_request import AdmissionRequest
from common.identity.certificates import certificate_pem, make_authority
from common.identity.keys import (
    make_node_key,
    make_signing_key,
    node_public_pem,
    signing_public_pem,
)
from common.identity.registry import Member, Registry
from common.identity.site_kit import Kit

NOW = datetime.now(UTC)


class Operator:
    """A server's keys and registry, in memory, so that it can also be a dishonest one."""

    def __init__(self) -> None:
        self.key = make_signing_key()
        self.authority = certificate_pem(make_authority(make_node_key(), NOW)).decode()
        self.registry = Registry(version=1, issued=NOW, address="127.0.0.1:9092")

    def put(self, *requests: AdmissionRequest, status: str = "active", name: str = "") -> None:
        member = Member(status=status, not_after=NOW + timedelta(days=365), requests=requests)
        sites = {**self.registry.sites, name or member.name: member}
        self.change(sites=sites)

    def change(self, **fields: object) -> None:
        fields = {"version": self.registry.version + 1} | fields
        self.registry = self.registry.model_copy(update=fields)

    def kit(self, site: str) -> Kit:
        return Kit(
            site=site,
            certificate=self.authority,
            signing_public_key=signing_public_pem(self.key),
            registry=self.registry.signed(self.key),
        )


@pytest.fixture
def operator() -> Operator:
    return Operator()


@pytest.fixture
def home(tmp_path: Path, operator: Operator) -> Path:
    """A site that asked and was admitted, and has not joined."""
    operator.put(make_site(tmp_path / "lab", "lab", NOW))
    operator.put(make_site(tmp_path / "other", "other", NOW))
    return tmp_path / "lab"


def joined(home: Path, operator: Operator) -> Membership:
    kit = operator.kit("lab")
    join(home, kit, kit.fingerprint)
    return Membership.load(home)


def events(home: Path, key: str | None = None) -> list[str]:
    public = key or read_request(home).claim.signing_public_key
    assert verify(home / "audit.jsonl", public) is None
    lines = map(json.loads, (home / "audit.jsonl").read_text().splitlines())
    return [line["event"] for line in lines if line["event"] not in ("begin", "signature")]


def facts(home: Path, event: str) -> list[dict[str, object]]:
    lines = map(json.loads, (home / "audit.jsonl").read_text().splitlines())
    return [line["facts"] for line in lines if line["event"] == event]


def test_a_site_joins(home: Path, operator: Operator) -> None:
    with pytest.raises(ConfigError, match="has not joined"):
        Membership.load(home)
    membership = joined(home, operator)
    assert membership.name == "lab" and membership.address == "127.0.0.1:9092"
    assert node_public_pem(membership.node_key()) == membership.member.node_public_key
    assert signing_public_pem(membership.signing_key()) == membership.member.signing_public_key
    assert membership.fingerprint == operator.kit("lab").fingerprint
    assert membership.warnings(NOW) == () and set(membership.registry.active()) == {"lab", "other"}
    assert load(Site, home / "site.yaml").name == "lab" and (home / "policy.yaml").exists()
    assert events(home) == ["identity_made", "joined"]
    text = "".join(file.read_text() for file in home.rglob("*") if file.is_file())
    assert text.count("PRIVATE KEY-----") == 4


def test_an_identity_is_never_made_over(home: Path) -> None:
    before = read_request(home)
    (home / "site.yaml").write_text("name: lab\n# mine\n")
    with pytest.raises(ConfigError, match="identity: exists already"):
        make_site(home, "lab", NOW)
    assert read_request(home) == before and "# mine" in (home / "site.yaml").read_text()
    with pytest.raises(ConfigError, match="name 'a b'"):
        make_site(home.parent / "new", "a b", NOW)
    assert not (home.parent / "new" / "identity").exists()


def test_a_kit_of_another_fingerprint_is_refused(home: Path, operator: Operator) -> None:
    kit, impostor = operator.kit("lab"), Operator()
    impostor.put(read_request(home))
    for told in (impostor.kit("lab").fingerprint, "", "0000", kit.fingerprint[:-1]):
        with pytest.raises(FederationError, match="fingerprint") as caught:
            join(home, kit, told)
        assert kit.fingerprint not in str(caught.value)
    with pytest.raises(FederationError, match="fingerprint"):
        join(home, impostor.kit("lab"), kit.fingerprint)
    for field in ("certificate", "signing_public_key"):
        mixed = kit.model_copy(update={field: getattr(impostor.kit("lab"), field)})
        with pytest.raises(FederationError, match="fingerprint"):
            join(home, mixed, kit.fingerprint)
    assert not (home / "kit").exists()
    assert events(home).count("kit_refused") == 7


def test_a_kit_with_an_altered_registry_is_refused(home: Path, operator: Operator) -> None:
    kit = operator.kit("lab")
    kit.registry["registry"]["sites"]["other"]["status"] = "revoked"
    said = r"kit: damaged or altered \(the registry: the signature does not fit\); ask the operator"
    with pytest.raises(FederationError, match=said):
        join(home, kit, kit.fingerprint)
    assert not (home / "kit").exists()
    (line,) = facts(home, "kit_refused")
    assert "the signature does not fit" in str(line["reason"])


def test_a_kit_without_this_sites_own_keys_is_refused(home: Path, operator: Operator) -> None:
    honest = operator.registry
    stranger = AdmissionRequest.make("lab", make_node_key(), make_signing_key(), NOW)
    operator.put(stranger)
    with pytest.raises(FederationError, match="bears other keys for lab"):
        joined(home, operator)
    operator.registry = honest.model_copy(update={"sites": {"other": honest.sites["other"]}})
    with pytest.raises(FederationError, match="lab is not in it"):
        joined(home, operator)
    operator.registry = honest
    operator.put(read_request(home), status="revoked")
    with pytest.raises(FederationError, match="lab is revoked"):
        joined(home, operator)
    operator.registry = honest
    kit = operator.kit("other")
    with pytest.raises(FederationError, match="made for other; this site is lab"):
        join(home, kit, kit.fingerprint)


def test_a_later_kit_cannot_go_back_or_change_server(home: Path, operator: Operator) -> None:
    first = operator.registry
    operator.change(address="fl.example.org:1")
    assert joined(home, operator).address == "fl.example.org:1"
    operator.registry = first
    with pytest.raises(FederationError, match="cannot replace version"):
        joined(home, operator)
    impostor = Operator()
    impostor.put(read_request(home))
    with pytest.raises(FederationError, match="shares this one.s ledger"):
        joined(home, impostor)
    assert Membership.load(home).address == "fl.example.org:1"


def test_a_running_site_accepts_what_follows_and_no_swapped_key(
    home: Path, operator: Operator
) -> None:
    membership = joined(home, operator)
    honest = operator.registry
    with membership.audit_log() as log:
        assert membership.accept(honest.signed(operator.key), log) is membership
        operator.put(AdmissionRequest.make("other", make_node_key(), make_signing_key(), NOW))
        swapped = operator.registry
        operator.registry = honest
        operator.put(AdmissionRequest.make("lab", make_node_key(), make_signing_key(), NOW))
        for wrong in (swapped, operator.registry):
            with pytest.raises(FederationError, match="given other keys"):
                membership.accept(wrong.signed(operator.key), log)
        with pytest.raises(FederationError, match="signature"):
            membership.accept(honest.signed(make_signing_key()), log)
        operator.registry = honest
        operator.put(read_request(home.parent / "other"), status="revoked")
        later = membership.accept(operator.registry.signed(operator.key), log)
        assert set(later.registry.active()) == {"lab"} and Membership.load(home) == later
        with pytest.raises(FederationError, match="cannot replace"):
            later.accept(honest.signed(operator.key), log)
    assert events(home)[2:] == [*["registry_refused"] * 3, "registry_accepted", "registry_refused"]


def test_keys_that_a_thief_of_the_old_ones_asked_for_are_refused(
    home: Path, operator: Operator
) -> None:
    membership = joined(home, operator)
    stolen = membership.signing_key()
    thief = AdmissionRequest.make("lab", make_node_key(), make_signing_key(), NOW, stolen)
    operator.put(read_request(home), thief)
    with (
        membership.audit_log() as log,
        pytest.raises(FederationError, match="bears other keys for lab"),
    ):
        membership.accept(operator.registry.signed(operator.key), log)


def test_an_exchanged_identity_is_found(home: Path, operator: Operator) -> None:
    joined(home, operator)
    make_site(home.parent / "second", "lab", NOW)
    shutil.rmtree(home / "identity")
    shutil.copytree(home.parent / "second" / "identity", home / "identity")
    with pytest.raises(FederationError, match="bears other keys for lab"):
        Membership.load(home)


def test_a_site_speaks_of_its_own_end(home: Path, operator: Operator) -> None:
    membership = joined(home, operator)
    assert "ends in 5 days" in membership.warnings(NOW + timedelta(days=360))[0]
    with membership.audit_log() as log:
        operator.put(read_request(home), status="revoked")
        membership = membership.accept(operator.registry.signed(operator.key), log)
    assert membership.warnings(NOW) == ("lab: was revoked; call the operator",)


def test_keys_are_rotated_with_the_old_keys_consent(home: Path, operator: Operator) -> None:
    old = joined(home, operator)
    first = read_request(home)
    following = rotate_keys(home, NOW)
    with pytest.raises(ConfigError, match="exists already"):
        rotate_keys(home, NOW)
    assert Membership.load(home).node_key_path == old.node_key_path
    assert signing_public_pem(old.signing_key()) == first.claim.signing_public_key
    assert set(joined(home, operator).registry.active()) == {"lab", "other"}
    operator.put(first, following)
    membership = joined(home, operator)
    assert not (home / "identity" / "next").exists()
    assert node_public_pem(membership.node_key()).decode() == following.claim.node_public_key
    assert signing_public_pem(membership.signing_key()) == following.claim.signing_public_key
    assert events(home, first.claim.signing_public_key) == events(home)
    assert events(home)[-2:] == ["keys_changed", "signing_key"]


@pytest.mark.parametrize("moved", [0, 1, 2, 3])
def test_a_rotation_cut_short_is_mended_by_joining_again(
    home: Path, operator: Operator, moved: int
) -> None:
    joined(home, operator)
    first = read_request(home)
    following = rotate_keys(home, NOW)
    operator.put(first, following)
    identity, before = home / "identity", home.parent / "before"
    shutil.copytree(identity, before)
    joined(home, operator)
    (identity / "next").mkdir()
    for file in ("node.key", "signing.key", "request.json")[moved:]:
        shutil.copy2(before / file, identity / file)
        shutil.copy2(before / "next" / file, identity / "next" / file)
    membership = joined(home, operator)
    assert not (home / "identity" / "next").exists()
    assert signing_public_pem(membership.signing_key()) == following.claim.signing_public_key
    with membership.audit_log() as log:
        log.append("restarted")
    assert events(home).count("keys_changed") == 1


def test_a_damaged_kit_is_named(home: Path, operator: Operator, tmp_path: Path) -> None:
    path = tmp_path / "lab.kit.json"
    whole = operator.kit("lab").model_dump_json()
    for text in ("", "[]", "{}", whole[:-10], whole.replace("CERTIFICATE", "CERT"), "{" * 99999):
        path.write_text(text)
        with pytest.raises(FederationError, match=r"(?s)lab.kit.json: .*; ask the operator for"):
            read_kit(path)
    with pytest.raises(FederationError, match="none.json: cannot be read"):
        read_kit(tmp_path / "none.json")


@pytest.mark.parametrize("key", ["signing_public_key", "node_public_key"])
def test_a_kit_with_a_flipped_byte_in_a_key_is_named(
    home: Path, operator: Operator, tmp_path: Path, key: str
) -> None:
    content = operator.kit("lab").model_dump(mode="json")
    claim = content["registry"]["registry"]["sites"]["other"]["requests"][0]["claim"]
    place = content if key == "signing_public_key" else claim
    place[key] = place[key].replace("BEGIN", "BEGIM")
    path = tmp_path / "lab.kit.json"
    path.write_text(json.dumps(content))
    with pytest.raises(
        FederationError, match=r"kit.*: damaged or altered .*; ask the operator for"
    ):
        join(home, kit := read_kit(path), kit.fingerprint)


def test_a_key_that_others_can_read_stops_the_site(home: Path, operator: Operator) -> None:
    membership = joined(home, operator)
    membership.node_key_path.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        membership.node_key()
    (home / "identity" / "signing.key").chmod(0o640)
    for refused in (membership.audit_log, membership.signing_key):
        with pytest.raises(ConfigError, match="chmod 600"):
            refused()


@pytest.mark.parametrize("name", ["server", "Server"])
def test_no_lab_is_made_under_the_servers_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"and not 'server', which is the server's"):
        make_site(tmp_path / "lab", name, datetime.now(UTC))
    assert not (tmp_path / "lab" / "identity").exists()
