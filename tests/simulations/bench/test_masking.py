"""The contestants of `hemofed bench masking` do the whole of what they are timed for."""

import json
from pathlib import Path

import pytest

from simulations.bench import masking
from simulations.bench.masking_contestant import constants, server, site


@pytest.mark.parametrize("sites", [3, 10])
def test_every_contestant_says_what_it_sends(sites: int) -> None:
    size, public = 1_000, constants(1_000, sites)
    packed = -(-size * public.bits // 8)
    assert site("local", size, sites, sites - 1)() == server("mean", size, sites)() == 4 * size
    assert site("masked", size, sites, sites - 1)() == server("sum", size, sites)() == packed
    assert site("masks", size, sites, sites - 1)() == 0


def test_a_site_and_the_server_are_measured_for_every_size(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[tuple[str, ...]] = []

    def said_by(module: str, *arguments: str) -> dict[str, float]:
        assert module == "simulations.bench.masking_contestant"
        asked.append(arguments)
        return {"seconds": 1.0}

    monkeypatch.setattr(masking, "said_by", said_by)
    masking.run(quick=False, json_file=tmp_path / "masking.json")
    assert len(json.loads((tmp_path / "masking.json").read_text())) == 2 * (2 * 4 + 1)
    kinds = {(size, sites, peers) for kind, size, sites, peers in asked if kind == "masked"}
    assert {("11200000", "100", "99"), ("6000", "1000", "36")} < kinds
    sums = {sites for kind, _, sites, _ in asked if kind == "sum"}
    assert sums == {"5", "10", "30", "100"}
