"""A server's home: who is admitted, renewed, revoked, and what the log and the files say."""

import errno
import json
import ssl
import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from common.audit.log import verify
from common.errors import ConfigError, FederationError
from common.identity.admission_request import AdmissionRequest
from common.identity.certificates import load_certificate
from common.identity.keys import make_node_key, make_signing_key
from common.identity.registry import Registry
from server.membership.provisioning import (
    admit,
    expiries,
    make_kit,
    make_server,
    prolong,
    renew_server,
    revoke,
)

NOW = datetime.now(UTC)
ROOT = Path(__file__).parents[3]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    make_server(tmp_path / "server", "127.0.0.1:9092", NOW)
    return tmp_path / "server"


def ask(name: str) -> AdmissionRequest:
    return AdmissionRequest.make(name, make_node_key(), make_signing_key(), NOW)


def events(home: Path) -> list[str]:
    assert verify(home / "audit.jsonl", (home / "signing.pub").read_text()) is None
    lines = map(json.loads, (home / "audit.jsonl").read_text().splitlines())
    return [line["event"] for line in lines if line["event"] not in ("begin", "signature")]


def test_a_fresh_home_is_whole_and_private(home: Path) -> None:
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in home.iterdir()}
    assert {"ca.key", "server.key", "signing.key", "registry.json", "audit.jsonl"} < set(modes)
    assert set(modes.values()) == {0o600}
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(home / "server.crt", home / "server.key")
    assert Registry.load(home).active() == {} and expiries(home, Registry.load(home), NOW) == ()
    assert not list(home.parent.glob(".*"))


@pytest.mark.parametrize("name", ["registry.json", "signing.pub", "audit.jsonl", "ca.crt", "."])
def test_a_home_that_others_may_write_changes_no_member(home: Path, name: str) -> None:
    (home / name).chmod(0o720)
    with pytest.raises(ConfigError, match="mode 0720 lets other users write it; type `chmod go-w"):
        admit(home, ask("lab"), NOW)


def test_nothing_is_made_over_something(home: Path, tmp_path: Path) -> None:
    before = {file.name: file.read_bytes() for file in home.iterdir()}
    with pytest.raises(ConfigError, match="exists already"):
        make_server(home, "127.0.0.1:9092", NOW)
    assert before == {file.name: file.read_bytes() for file in home.iterdir()}
    with pytest.raises(ConfigError, match="host:port"):
        make_server(tmp_path / "other", "nowhere", NOW)
    assert not (tmp_path / "other").exists()
    with pytest.raises(ConfigError, match="hemofed server init"):
        revoke(tmp_path, "a", NOW)
    with pytest.raises(ConfigError, match="hemofed server init"):
        Registry.load(tmp_path)


def test_admission_renewal_rotation_revocation(home: Path) -> None:
    old = make_signing_key()
    first = AdmissionRequest.make("a", make_node_key(), old, NOW)
    assert admit(home, first, NOW, days=10).outcome == "admitted"
    member = Registry.load(home).active(NOW)["a"]
    assert member.node_public_key == first.claim.node_public_key.encode()
    assert set(Registry.load(home).active(NOW + timedelta(days=11))) == set()
    assert admit(home, first, NOW, days=100).outcome == "renewed"
    assert set(Registry.load(home).active(NOW + timedelta(days=11))) == {"a"}
    following = AdmissionRequest.make("a", make_node_key(), make_signing_key(), NOW, old)
    assert admit(home, following, NOW).outcome == "keys_changed"
    assert Registry.load(home).sites["a"].requests == (first, following)
    with pytest.raises(FederationError, match="name is taken"):
        admit(home, first, NOW)
    assert prolong(home, "a", NOW, days=500).not_after == NOW + timedelta(days=500)
    assert revoke(home, "a", NOW).active(NOW) == {}
    version = Registry.load(home).version
    assert revoke(home, "a", NOW).version == version == 6
    for change in (lambda: admit(home, following, NOW), lambda: prolong(home, "a", NOW)):
        with pytest.raises((FederationError, ConfigError), match="revoked"):
            change()
    assert events(home) == [
        *("server_made", "admitted", "renewed", "keys_changed", "admission_refused"),
        *("renewed", "revoked", "admission_refused"),
    ]


def test_a_stranger_cannot_take_a_name_or_a_key(home: Path) -> None:
    first = ask("a")
    admit(home, first, NOW)
    key = make_signing_key()
    stranger = AdmissionRequest.make("a", make_node_key(), key, NOW, key)
    swapped = first.model_copy(update={"claim": stranger.claim})
    node, signing = make_node_key(), make_signing_key()
    admit(home, AdmissionRequest.make("b", node, signing, NOW), NOW)
    twin = AdmissionRequest.make("c", node, make_signing_key(), NOW)
    before = (home / "registry.json").read_bytes()
    for wrong, said in (
        (ask("a"), "the name is taken by the keys"),
        (stranger, "new keys of a, by the old key"),
        (swapped, "the name is taken by the keys"),
        (ask("d").model_copy(update={"claim": ask("d").claim}), "d: the signature does not fit"),
        (twin, "c and b share a key"),
    ):
        with pytest.raises(FederationError, match=said):
            admit(home, wrong, NOW)
    assert (home / "registry.json").read_bytes() == before
    assert events(home).count("admission_refused") == 5


def test_unknown_members_are_named(home: Path) -> None:
    admit(home, ask("a"), NOW)
    for change in (
        lambda: revoke(home, "b", NOW),
        lambda: prolong(home, "b", NOW),
        lambda: make_kit(home, "b"),
    ):
        with pytest.raises(ConfigError, match="site b: is not a member; members: a"):
            change()


def test_a_renewed_certificate_hangs_on_the_same_authority(home: Path) -> None:
    before = load_certificate(home / "server.crt")
    admit(home, ask("a"), NOW)
    fingerprint = make_kit(home, "a").fingerprint
    late = NOW + timedelta(days=380)
    assert "expires in 16 days" in " ".join(expiries(home, Registry.load(home), late))
    renew_server(home, late)
    after = load_certificate(home / "server.crt")
    assert after.not_valid_after_utc > before.not_valid_after_utc
    after.verify_directly_issued_by(load_certificate(home / "ca.crt"))
    said = expiries(home, Registry.load(home), late)
    assert len(said) == 1 and "a: the membership ended" in said[0]
    renew_server(home, late, address="fl.example.org:443")
    assert Registry.load(home).address == "fl.example.org:443"
    assert "fl.example.org" in str(load_certificate(home / "server.crt").extensions)
    assert make_kit(home, "a").fingerprint == fingerprint
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(home / "server.crt", home / "server.key")


def test_an_altered_registry_stops_the_server(home: Path) -> None:
    admit(home, ask("a"), NOW)
    path = home / "registry.json"
    path.write_text(path.read_text().replace('"active"', '"revoked"'))
    with pytest.raises(FederationError, match="does not fit"):
        Registry.load(home)
    with pytest.raises(FederationError, match="does not fit"):
        admit(home, ask("b"), NOW)


def test_a_passphrase_holds_for_the_whole_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HEMOFED_PASSPHRASE", raising=False)
    make_server(tmp_path / "s", "localhost:1", NOW, "secret")
    with pytest.raises(ConfigError, match="encrypted"):
        admit(tmp_path / "s", ask("a"), NOW)
    admit(tmp_path / "s", ask("a"), NOW, passphrase="secret")
    monkeypatch.setenv("HEMOFED_PASSPHRASE", "secret")
    renew_server(tmp_path / "s", NOW)
    assert make_kit(tmp_path / "s", "a").site == "a"


def test_admissions_at_once_all_count(home: Path, tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from datetime import UTC, datetime\n"
        "from common.identity.documents import read_document\n"
        "from common.identity.admission_request import AdmissionRequest\n"
        "from server.membership.provisioning import admit\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "for file in sys.argv[2:]:\n"
        "    request = read_document(AdmissionRequest, Path(file))\n"
        "    admit(Path(sys.argv[1]), request, datetime.now(UTC))\n"
    )
    files = [tmp_path / f"{number}.json" for number in range(12)]
    for number, file in enumerate(files):
        file.write_text(ask(f"site-{number}").text())
    halves = [list(map(str, files[:6])), list(map(str, files[6:]))]
    words = [sys.executable, "-c", script, str(home)]
    pipe = subprocess.PIPE
    with (
        subprocess.Popen([*words, *halves[0]], cwd=ROOT, stdin=pipe, stdout=pipe) as one,
        subprocess.Popen([*words, *halves[1]], cwd=ROOT, stdin=pipe, stdout=pipe) as two,
    ):
        for process in (one, two):
            assert process.stdout and process.stdout.readline() == b"ready\n"
        for process in (one, two):
            assert process.stdin
            process.stdin.write(b"go\n")
            process.stdin.flush()
    assert (one.returncode, two.returncode) == (0, 0)
    registry = Registry.load(home)
    assert len(registry.active()) == 12 and registry.version == 13
    assert events(home).count("admitted") == 12


def test_a_full_disk_leaves_the_registry_as_it_was(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    admit(home, ask("a"), NOW)
    before = (home / "registry.json").read_bytes()

    def full(path: Path, *_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        with pytest.raises(FederationError, match=r"registry.json: cannot be written .No space"):
            admit(home, ask("b"), NOW)
        with pytest.raises(FederationError, match=r"server.crt: cannot be written"):
            renew_server(home, NOW)
    assert (home / "registry.json").read_bytes() == before
    assert not list(home.glob(".*"))
    (home.parent / "file").touch()
    with pytest.raises(ConfigError, match=r"file/server: cannot be made"):
        make_server(home.parent / "file" / "server", "localhost:1", NOW)
    admit(home, ask("b"), NOW)
    assert set(Registry.load(home).active(NOW)) == {"a", "b"}
