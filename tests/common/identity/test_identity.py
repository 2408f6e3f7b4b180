"""Keys, signatures, fingerprints: what is refused, and what Flower makes of the keys."""

import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from hypothesis import given
from hypothesis import strategies as st

from common.canonical_json import canonical
from common.errors import ConfigError, FederationError
from common.identity import keys
from common.identity.admission_request import AdmissionRequest
from common.identity.keys import (
    load_node_key,
    load_signing_key,
    make_node_key,
    make_signing_key,
    node_public_pem,
    signing_public_pem,
    write_private,
    write_tls_key,
)
from common.identity.signatures import fingerprint, same_fingerprint, sign, verify

NOW = datetime(2026, 5, 1, tzinfo=UTC)
KEY = make_signing_key()
PUBLIC = signing_public_pem(KEY)


def test_keys_come_back_and_nobody_else_can_read_them(tmp_path: Path) -> None:
    node = make_node_key()
    write_private(tmp_path / "node.key", node)
    write_private(tmp_path / "signing.key", KEY)
    for file in tmp_path.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert node_public_pem(load_node_key(tmp_path / "node.key")) == node_public_pem(node)
    assert signing_public_pem(load_signing_key(tmp_path / "signing.key")) == PUBLIC


def test_flower_reads_the_node_key_and_writes_the_same_public_bytes(tmp_path: Path) -> None:
    from flwr.supercore.primitives import asymmetric

    write_private(tmp_path / "node.key", node := make_node_key())
    key = load_ssh_private_key((tmp_path / "node.key").read_bytes(), None)
    public = asymmetric.bytes_to_public_key(node_public_pem(node))
    assert asymmetric.public_key_to_bytes(public) == node_public_pem(node)
    assert asymmetric.uses_nist_ec_curve(public)
    signature = asymmetric.sign_message(key, b"time")  # type: ignore[arg-type]
    assert asymmetric.verify_signature(public, b"time", signature)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o610, 0o601, 0o602, 0o620])
def test_a_key_that_others_can_reach_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "signing.key"
    write_private(path, KEY)
    path.chmod(mode)
    with pytest.raises(ConfigError, match=rf"{path}: mode {mode:04o}.*chmod 600 {path}"):
        load_signing_key(path)


def test_a_passphrase_is_needed_and_has_to_be_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "node.key"
    for write, key in ((write_private, make_node_key()), (write_tls_key, make_node_key())):
        write(path, key, "correct horse")
        assert b"ENCRYPTED" in path.read_bytes()
        monkeypatch.delenv("HEMOFED_PASSPHRASE", raising=False)
        with pytest.raises(ConfigError, match="encrypted; set HEMOFED_PASSPHRASE"):
            load_node_key(path)
        monkeypatch.setenv("HEMOFED_PASSPHRASE", "wrong")
        with pytest.raises(ConfigError, match="passphrase is wrong"):
            load_node_key(path)
        monkeypatch.setenv("HEMOFED_PASSPHRASE", "correct horse")
        assert node_public_pem(load_node_key(path)) == node_public_pem(key)


class Asked:
    """A person at a terminal, or none, who answers in this order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *answers: str, terminal: bool = True):
        self.prompts: list[str] = []
        self.left = list(answers)
        monkeypatch.setattr(keys.getpass, "getpass", self)
        monkeypatch.setattr(keys.sys, "stdin", self)
        self.isatty = lambda: terminal

    def __call__(self, prompt: str) -> str:
        self.prompts.append(prompt)
        return self.left.pop(0)


def test_a_new_passphrase_is_the_environments_or_asked_twice_or_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = Asked(monkeypatch, "horse", "horse")
    monkeypatch.setenv("HEMOFED_PASSPHRASE", "given")
    assert keys.new_passphrase(True) == keys.new_passphrase(False) == "given"
    monkeypatch.setenv("HEMOFED_PASSPHRASE", "")
    assert keys.new_passphrase(False) is None and asked.prompts == []
    assert keys.new_passphrase(True) == "horse" and len(asked.prompts) == 2


@pytest.mark.parametrize("answers", [("horse", "house"), ("horse", ""), ("", "horse"), ("", "")])
def test_a_passphrase_that_was_mistyped_encrypts_nothing(
    monkeypatch: pytest.MonkeyPatch, answers: tuple[str, str]
) -> None:
    monkeypatch.delenv("HEMOFED_PASSPHRASE", raising=False)
    Asked(monkeypatch, *answers)
    with pytest.raises(ConfigError, match="differ or are empty; nothing was written"):
        keys.new_passphrase(True)


def test_a_passphrase_is_asked_for_where_somebody_can_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "signing.key"
    write_private(path, KEY, "horse")
    monkeypatch.delenv("HEMOFED_PASSPHRASE", raising=False)
    asked = Asked(monkeypatch, "horse", "")
    assert signing_public_pem(load_signing_key(path)) == PUBLIC
    assert asked.prompts == [f"Passphrase for {path}: "]
    assert signing_public_pem(load_signing_key(path, "horse")) == PUBLIC
    monkeypatch.setenv("HEMOFED_PASSPHRASE", "horse")
    assert signing_public_pem(load_signing_key(path)) == PUBLIC and len(asked.prompts) == 1
    monkeypatch.delenv("HEMOFED_PASSPHRASE")
    with pytest.raises(ConfigError, match="set HEMOFED_PASSPHRASE"):
        load_signing_key(path)
    nobody = Asked(monkeypatch, terminal=False)
    for stdin in (nobody, None):
        monkeypatch.setattr(keys.sys, "stdin", stdin)
        with pytest.raises(ConfigError, match="set HEMOFED_PASSPHRASE"):
            load_signing_key(path)
    assert nobody.prompts == []


def test_a_key_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for write, key in ((write_private, KEY), (write_tls_key, make_node_key())):
        with pytest.raises(ConfigError, match=r"file/some.key: cannot be written \("):
            write(tmp_path / "file" / "some.key", key)


def test_what_is_not_the_key_asked_for_is_named(tmp_path: Path) -> None:
    path = tmp_path / "some.key"
    with pytest.raises(ConfigError, match="some.key.*No such file"):
        load_signing_key(path)
    write_private(path, make_node_key())
    with pytest.raises(ConfigError, match="expected an Ed25519"):
        load_signing_key(path)
    write_private(path, generate_private_key(SECP256R1()))
    with pytest.raises(ConfigError, match="expected an ECDSA P-384"):
        load_node_key(path)
    path.write_bytes(b"")
    with pytest.raises(ConfigError, match="cannot be read as a private key"):
        load_node_key(path)


@given(st.binary(max_size=50), st.integers(0, 511))
def test_a_signature_fits_one_message_and_one_key(message: bytes, bit: int) -> None:
    signature = sign(KEY, message)
    verify(PUBLIC, message, signature)
    flipped = bytearray.fromhex(signature)
    flipped[bit // 8] ^= 1 << bit % 8
    for public, content, claimed in (
        (PUBLIC, message + b"x", signature),
        (PUBLIC, message, flipped.hex()),
        (PUBLIC, message, ""),
        (PUBLIC, message, "no hex"),
        (signing_public_pem(make_signing_key()), message, signature),
    ):
        with pytest.raises(FederationError, match="the study: the signature does not fit"):
            verify(public, content, claimed, "the study")


def test_fingerprints_are_compared_as_people_write_them() -> None:
    shown = fingerprint(PUBLIC)
    assert [len(group) for group in shown.split()] == [4] * 8, "128 bits"
    assert same_fingerprint(shown, shown.upper().replace(" ", ":"))
    assert same_fingerprint(shown, f" {shown.replace(' ', '')}\n")
    assert not same_fingerprint(shown, fingerprint(signing_public_pem(make_signing_key())))
    for short in ("", shown[:-1], shown[:4], "zz" * 16):
        assert not same_fingerprint(short, short) or short == "zz" * 16
        assert not same_fingerprint(shown, short)
    assert fingerprint(PUBLIC.replace("\n", "\r\n")) == shown
    with pytest.raises(FederationError, match="PEM"):
        fingerprint("nothing")


def test_canonical_json_is_one_text() -> None:
    assert canonical({"b": 1, "a": "é"}) == b'{"a":"\\u00e9","b":1}'
    with pytest.raises(ValueError, match="JSON"):
        canonical({"a": float("nan")})


def request(name: str = "munich") -> AdmissionRequest:
    return AdmissionRequest.make(name, make_node_key(), make_signing_key(), NOW)


def test_a_request_proves_both_keys() -> None:
    asked, other = request(), request()
    asked.check()
    assert AdmissionRequest.model_validate_json(asked.text()) == asked
    for field in ("node_public_key", "signing_public_key", "name", "created"):
        value = {"name": "berlin", "created": NOW + timedelta(seconds=1)}.get(
            field, getattr(other.claim, field)
        )
        claim = asked.claim.model_copy(update={field: value})
        with pytest.raises(FederationError, match="does not fit"):
            asked.model_copy(update={"claim": claim}).check()
    for field in ("signature", "node_signature"):
        with pytest.raises(FederationError, match="does not fit"):
            asked.model_copy(update={field: getattr(other, field)}).check()


def test_new_keys_need_the_old_keys_consent() -> None:
    old = make_signing_key()
    first = AdmissionRequest.make("munich", make_node_key(), old, NOW)
    AdmissionRequest.make("munich", make_node_key(), make_signing_key(), NOW, old).check_consent(
        first
    )
    stranger = AdmissionRequest.make(
        "munich", make_node_key(), make_signing_key(), NOW, make_signing_key()
    )
    for wrong in (stranger, request()):
        with pytest.raises(FederationError, match="new keys of munich, by the old key"):
            wrong.check_consent(first)


@pytest.mark.parametrize("name", ["", "../x", "a b", "-x", "é", "x" * 65, "x\n"])
def test_names_are_plain(name: str) -> None:
    with pytest.raises(ValueError, match="pattern"):
        request(name)


def test_a_request_holds_keys_of_the_right_kind_only() -> None:
    asked = request().model_dump(mode="json")
    weak = generate_private_key(SECP256R1())
    for pem, said in (
        (PUBLIC, "is a Ed25519PublicKey, expected ECDSA P-384"),
        (node_public_pem(weak).decode(), "is a ECPublicKey, expected ECDSA P-384"),
        ("", "is not valid PEM"),
        ("-----BEGIN PUBLIC KEY-----", "is not valid PEM"),
    ):
        changed = asked | {"claim": asked["claim"] | {"node_public_key": pem}}
        with pytest.raises(FederationError, match=said):
            AdmissionRequest.model_validate(changed)


def test_a_signing_key_has_one_spelling_and_one_kind() -> None:
    asked = request().model_dump(mode="json")
    sound = asked["claim"]["signing_public_key"]
    other = asked | {"claim": asked["claim"] | {"signing_public_key": f"a key\r\n{sound}\r\n"}}
    assert AdmissionRequest.model_validate(other).claim.signing_public_key == sound
    wrong = asked["claim"]["node_public_key"]
    with pytest.raises(FederationError, match="expected Ed25519"):
        AdmissionRequest.model_validate(
            asked | {"claim": asked["claim"] | {"signing_public_key": wrong}}
        )


@pytest.mark.parametrize("key", ["node_public_key", "signing_public_key"])
def test_a_key_is_read_to_a_thousand_characters(key: str) -> None:
    asked = request().model_dump(mode="json")
    for spaces, fits in ((1000, True), (1001, False)):
        text = asked["claim"][key].ljust(spaces)
        content = asked | {"claim": asked["claim"] | {key: text}}
        if fits:
            assert AdmissionRequest.model_validate(content).model_dump(mode="json") == asked
        else:
            with pytest.raises(ValueError, match="at most 1000"):
                AdmissionRequest.model_validate(content)


@pytest.mark.parametrize("name", ["signature", "node_signature", "consent"])
def test_a_signature_is_read_to_512_characters(name: str) -> None:
    asked = request().model_dump(mode="json")
    assert AdmissionRequest.model_validate(asked | {name: "0" * 512})
    with pytest.raises(ValueError, match="at most 512"):
        AdmissionRequest.model_validate(asked | {name: "0" * 513})
    assert (
        AdmissionRequest.model_validate({k: v for k, v in asked.items() if k != "consent"}).consent
        is None
    )


def test_a_requests_fingerprint_is_of_the_name_and_both_keys_and_no_other_thing() -> None:
    """Asked again with the same keys it is the same: two people compare it by telephone."""
    node, signing = make_node_key(), make_signing_key()
    first = AdmissionRequest.make("munich", node, signing, NOW)
    later = AdmissionRequest.make(
        "munich", node, signing, NOW + timedelta(days=1), make_signing_key()
    )
    assert first.fingerprint == later.fingerprint
    others = (
        AdmissionRequest.make("berlin", node, signing, NOW),
        AdmissionRequest.make("munich", make_node_key(), signing, NOW),
        AdmissionRequest.make("munich", node, make_signing_key(), NOW),
    )
    assert len({first.fingerprint, *(other.fingerprint for other in others)}) == 4
