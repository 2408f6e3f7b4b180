"""Which device a setting means, on machines with any number of GPUs; no GPU is needed to ask."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from common.config.loading import parse
from common.config.study import Runtime
from common.device import clients_on_gpus, resolve
from common.errors import ConfigError
from simulations.engine.seeded import workers_of


def gpus(patch: pytest.MonkeyPatch, count: int) -> None:
    """A machine that has so many."""
    patch.setattr(torch.cuda, "is_available", lambda: count > 0)
    patch.setattr(torch.cuda, "device_count", lambda: count)


@given(st.integers(1, 8), st.integers(0, 40), st.sampled_from(["auto", "cuda"]))
def test_workers_take_the_gpus_in_turn(count: int, turn: int, device: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        gpus(patch, count)
        assert resolve(device, turn) == torch.device("cuda", turn % count)


@given(st.integers(0, 8), st.integers(0, 9), st.integers(0, 40))
def test_a_gpu_that_is_named_is_the_one_or_an_error_that_lists_those_there(
    count: int, number: int, turn: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        gpus(patch, count)
        if number < count:
            assert resolve(f"cuda:{number}", turn) == torch.device("cuda", number)
            return
        there = f"has cuda:0.*cuda:{count - 1}|has cuda:0$" if count else "finds no CUDA device"
        with pytest.raises(ConfigError, match=f"runtime.device: cuda:{number}.*({there})"):
            resolve(f"cuda:{number}", turn)


def test_without_a_gpu_auto_is_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, 0)
    assert resolve("auto", 3) == resolve("cpu", 3) == torch.device("cpu")
    with pytest.raises(ConfigError, match="cuda was asked for and torch finds no CUDA device"):
        resolve("cuda")


@pytest.mark.parametrize("share", [0.5, 1 / 3, 0.25, 0.3, 1.0])
def test_clients_of_a_share_fit_on_whole_gpus(
    share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus(monkeypatch, 3)
    assert clients_on_gpus(share) == 3 * int(1 / share)
    gpus(monkeypatch, 0)
    with pytest.raises(ConfigError, match="gpus_per_client: .* finds no CUDA device"):
        clients_on_gpus(share)


def test_more_workers_than_the_gpus_have_room_for_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gpus(monkeypatch, 2)
    with pytest.raises(ConfigError, match=r"0.5 for each of 5 workers .* have room for 4"):
        workers_of(Runtime(workers=5, gpus_per_client=0.5), seed=0)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"device": "gpu"}, "'gpu' is not auto, cpu, cuda, or a GPU's number like cuda:1"),
        ({"device": "cuda:-1"}, "not auto"),
        ({"device": "cuda:01"}, "not auto"),
        ({"device": "cuda:1\n"}, "not auto"),
        ({"gpus_per_client": 1.5}, "less than or equal to 1"),
        ({"gpus_per_client": -0.5}, "greater than or equal to 0"),
        ({"gpus_per_client": 0.5, "device": "cpu"}, "0.5 with device: cpu"),
        ({"gpus_per_client": 0, "device": "cuda:1"}, "0 with device: cuda:1"),
    ],
)
def test_a_runtime_that_cannot_be_is_refused(fields: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse(Runtime, fields, "test")


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:0", "cuda:12"])
def test_devices_that_can_be_named(device: str) -> None:
    assert parse(Runtime, {"device": device}, "test").device == device
