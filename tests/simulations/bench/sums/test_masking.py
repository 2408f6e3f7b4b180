"""The contestants of `hemofed bench masking` do the whole of what they are timed for."""

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from common.errors import ConfigError
from simulations.bench.sums import masking
from simulations.bench.sums.debits import debits
from simulations.bench.sums.masking_contestant import constants, server, site
from simulations.bench.sums.masking_figures import tell, whole

FAKE = f"""#!{sys.executable}
import json, sys
safe, how, what, *rest = sys.argv[1:]
found = {{"version": "9.9", "gil": True}} if how == "-c" else {{"seconds": 2.0, "asked": 0}}
print(json.dumps(found))
"""


@pytest.mark.parametrize("sites", [3, 10])
def test_every_contestant_says_what_it_sends(sites: int) -> None:
    size, public = 1_000, constants(1_000, sites)
    packed = -(-size * public.bits // 8)
    assert site("local", size, sites, sites - 1)() == server("mean", size, sites)() == 4 * size
    assert site("masked", size, sites, sites - 1)() == server("sum", size, sites)() == packed
    assert site("masks", size, sites, sites - 1)() == 0


def _run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *peers: str) -> tuple[list[Any], Any]:
    """What is asked of the contestants, and the tables."""
    asked: list[tuple[str, ...]] = []

    def said_by(module: str, *arguments: str) -> dict[str, float]:
        asked.append((module.rpartition(".")[2], *arguments))
        return {"seconds": 1.0}

    monkeypatch.setattr(masking, "said_by", said_by)
    masking.run(quick=False, json_file=tmp_path / "masking.json", peers=peers)
    return asked, json.loads((tmp_path / "masking.json").read_text())


def test_a_site_and_the_server_are_measured_for_every_size(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked, tables = _run(monkeypatch, tmp_path)
    assert len(tables) == 2 * (2 * 4 + 2 * 3 + 1) + 1
    own = [rest for module, *rest in asked if module == "masking_contestant"]
    kinds = {(size, sites, peers) for kind, size, sites, peers in own if kind == "masked"}
    assert {("11200000", "100", "99"), ("6000", "1000", "36")} < kinds
    sums = {sites for kind, _, sites, _ in own if kind == "sum"}
    assert sums == {"5", "10", "30", "100"}


def test_a_lost_site_and_secagg_plus_are_measured_for_5_10_and_30(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked, _ = _run(monkeypatch, tmp_path)
    compared = {(size, sites) for size in ("6000", "11200000") for sites in ("5", "10", "30")}
    lost = Counter(tuple(rest) for module, *rest in asked if module == "dropout_contestant")
    assert set(lost) == {
        (*sum_, who, protocol, away)
        for sum_ in compared
        for who in ("site", "server")
        for protocol in ("again", "shares")
        for away in ("0", "1")
    } | {(*sum_, "site", "gradients", "1") for sum_ in compared}
    flower = Counter(tuple(rest) for module, *rest in asked if module == "secagg_plus")
    kinds = ("site", "server", "server-away")
    assert set(flower) == {(*sum_, kind) for sum_ in compared for kind in kinds}
    assert set(lost.values()) == set(flower.values()) == {5}


def test_a_peer_stands_in_the_same_tables_by_its_own_interpreter(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake = tmp_path / "python"
    fake.write_text(FAKE)
    fake.chmod(0o755)
    asked, tables = _run(monkeypatch, tmp_path, f"fedbiomed={fake}")
    with_peer = [
        table["title"]
        for table in tables
        if "Fed-BioMed 9.9, LOM" in table.get("contestants", {})
        and table["contestants"]["Fed-BioMed 9.9, LOM"]["ratio"] == 2.0
    ]
    assert len(with_peer) == 2 * 2 * 3 == len(set(with_peer))
    assert set(Counter(asked).values()) == {3}


@pytest.mark.parametrize("text", ["pfl=python", "fedbiomed", "fedbiomed="])
def test_what_names_no_peer_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="fedbiomed"):
        masking.run(quick=True, json_file=None, peers=[text])


@pytest.mark.parametrize(
    ("size", "vectors", "at_most", "done"),
    [(3_000_000, 1, None, 1), (1_000_000, 1, None, 1 + 2), (1_000, 10, None, 201), (6, 1, 1, 2)],
)
def test_small_work_is_done_again_and_the_time_divided(
    size: int,
    vectors: int,
    at_most: int | None,
    done: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    calls: list[None] = []

    def work() -> int:
        calls.append(None)
        return 2 * size

    tell(whole(work), size, vectors, at_most)
    figures = json.loads(capsys.readouterr().out)
    assert len(calls) == done and figures["bytes / float32"] == 0.5
    assert 0 <= figures["seconds"] < 1


def test_an_attempt_more_costs_epsilon_or_noise(capsys: pytest.CaptureFixture[str]) -> None:
    rows = debits()["attempts more"]
    costs = [row["epsilon at the same noise"] for row in rows.values()]
    noises = [row["noise at the same epsilon"] for row in rows.values()]
    assert costs == sorted(costs) and 8.0 < costs[0] < 8.1
    assert noises == sorted(noises) and 1.0 < noises[0] < 1.01
    assert "attempts more" in capsys.readouterr().out
