"""`hemofed bench gpu` where no GPU is: its code runs on the CPU if told so, and says why if not."""

import json
import warnings
from pathlib import Path

import pytest
import torch
from typer import BadParameter

from common.errors import ConfigError
from simulations.bench import gpu
from simulations.bench.cli import Bench, bench


def test_every_part_is_measured(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Full backward hook is firing")
        gpu.run(True, tmp_path / "gpu.json", "cpu")
    steps, bfloat16, *features, rounds = json.loads((tmp_path / "gpu.json").read_text())["tables"]
    assert list(steps["contestants"]) == list(gpu._STEPS)
    # Opacus 1.6 gives a float32 weight a bfloat16 gradient, which torch refuses.
    assert set(gpu._STEPS) - set(bfloat16["contestants"]) <= {"opacus hooks"}
    for table in (steps, bfloat16):
        assert all(one["medians"]["seconds"] > 0 for one in table["contestants"].values())
    for table in features:
        assert all(one["medians"]["features a second"] for one in table["contestants"].values())
    assert "a head's noise" in rounds["contestants"] and len(features) == 2


@pytest.mark.parametrize(
    ("quick", "device", "said"),
    [
        (False, "auto", "no CUDA device here"),
        (True, "cuda:1", "no CUDA device here"),
        (False, "cpu", "goes with --quick"),
    ],
)
def test_without_a_gpu_it_says_so(
    quick: bool, device: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=said):
        gpu.run(quick, None, device)


def test_a_device_is_for_this_bench_alone() -> None:
    with pytest.raises(BadParameter, match="--device is for gpu"):
        bench(Bench.NOISE, device="cpu")


def test_what_does_not_fit_is_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def too_much() -> dict[str, float]:
        raise torch.OutOfMemoryError

    assert not gpu._runs("opacus hooks", too_much, torch.device("cpu"))
    assert "opacus hooks: left out" in capsys.readouterr().out
