"""Nothing that is computed at a site leaves a tensor on the CPU when the site has another device.

The device is pretended (`tests/pretend_device.py`). It computes what the CPU does, up to the order
of sums, which the convolutions choose by the kind of device.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import RecordDict
from torch import Tensor, nn

from client.app import _asked
from client.request import Request
from client.site import open_site
from client.training import selftest
from client.training import workspace as workspaces
from client.training.evaluation import predict
from client.training.feature_cache import extract
from client.training.job import Job
from client.training.training import train
from client.training.workspace import workspace
from common.config.study import ModelSpec, Participant, Site, Study
from common.models import build, federated
from common.models.parameter_vector import flatten, load
from common.privacy.clipping import clipped_gradient_sum
from common.privacy.noise import privatise
from common.privacy.noise_source import NoiseSource
from common.wire.vector_codec import Vector
from simulations.bench.clipping.contestants import Case, losses
from simulations.encoders.pretrain import Recipe, pretrain
from simulations.engine.seeded import SeededEntropy
from tests.client.lab import PRIVACY, TYPES, make_lab, message, study
from tests.pretend_device import DEVICE, Elsewhere, MixedDevicesError, pretended

FROZEN = {"name": "cnn", "width": 2, "encoder": "frozen"}
ENGINES = ("bookkeeping", "opacus", "vmap")
STUDIES: dict[str, dict[str, Any]] = {
    "plain": {"privacy": {}, "training": {"proximal_mu": 0.1, "optimizer": "adam"}},
    "plain, clipped": {"privacy": {}, "training": {"gradient_clip": 0.1, "momentum": 0.9}},
    "frozen": {"privacy": {}, "model": FROZEN},
    "private head": {"model": FROZEN},
    "private, centred": {"model": FROZEN | {"centre": True}},
    "private patients": {"privacy": PRIVACY | {"unit": "patient", "augmentations": 2}},
    "private, pulled back": {
        "training": {
            "proximal_mu": 0.1,
            "rare_class_power": 0.5,
            "class_prior": dict.fromkeys(TYPES, 1.0),
        }
    },
    "private, automatic": {"privacy": PRIVACY | {"clipping": "automatic"}},
    **{f"private, {engine}": {"privacy": PRIVACY | {"engine": engine}} for engine in ENGINES},
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return open_site(make_lab(tmp_path_factory.mktemp("devices") / "lab", cells=36))


def rounds_of(site: Site, of: Study) -> tuple[Vector, Any]:
    """The model after two rounds, and what it says of the test cells."""
    bench = workspace(site, of)
    load(bench.parameters, flatten(federated(build(of.model, 2, of.image_side, of.seed))))
    for number in (1, 2):
        job = Job(of, "lab", Participant(units=25), number, 0.5)
        train(job, bench.inputs, SeededEntropy(1))
    return flatten(bench.parameters), predict(bench.inputs, bench.inputs.cells.rows("test"))


@pytest.mark.parametrize(
    ("kind", "free"), [*((kind, 0) for kind in STUDIES), ("plain", 2**40), ("private, vmap", 2**40)]
)
def test_rounds_and_evaluations_stay_on_the_device(
    site: Site, kind: str, free: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """free: bytes of the device's memory; with room for all pixels they are kept there."""
    of = study(**STUDIES[kind])
    here = rounds_of(site, of)
    for module in (workspaces, selftest):
        monkeypatch.setattr(module, "resolve", lambda device: DEVICE)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, free))
    workspaces._images.cache_clear()
    with pretended():
        made = workspace(site, of)
        kept = made.inputs.features if made.model.frozen else made.inputs.images
        assert all(isinstance(value, Elsewhere) for value in made.parameters.values())
        assert isinstance(kept, Elsewhere) or (kept is None and not free)
        there = rounds_of(site, of)
        selftest.check_alone(site, of)
    for found, expected in zip(there, here, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


Batch = tuple[nn.Module, Tensor, Tensor]


def of_tokens() -> Batch:
    """A model of numbered words: units in which one comes twice."""
    tokens = torch.arange(20).view(5, 4) % 3
    model = nn.Sequential(nn.Embedding(7, 3), nn.Flatten(), nn.Linear(12, 2))
    for value in model.parameters():
        nn.init.normal_(value, generator=torch.Generator().manual_seed(1))
    return model, tokens, torch.arange(5) % 2


@pytest.mark.parametrize("make", [Case("cnn", 16, 5).make, Case("head", 0, 9).make, of_tokens])
@pytest.mark.parametrize("engine", ENGINES)
def test_a_clipped_and_noised_sum_stays_on_the_device(
    make: Callable[[], Batch], engine: Any
) -> None:
    found = []
    for device in (torch.device("cpu"), DEVICE):
        with pretended():
            model, *batch = make()
            model.to(device)
            inputs, targets = (part.to(device) for part in batch)
            total = clipped_gradient_sum(
                model, losses, inputs, targets, max_grad_norm=1.0, engine=engine
            )
            source = NoiseSource.seeded(bytes(32))
            noisy = privatise(
                total.gradient, max_grad_norm=1.0, noise_multiplier=1.0, source=source
            )
            assert noisy.device == total.gradient.device == device
            found.append(noisy.cpu().numpy())
    np.testing.assert_allclose(*found, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["cnn", "resnet18", "efficientnet-lite0"])
def test_features_are_computed_on_the_device(site: Site, name: Any) -> None:
    cells = workspace(site, study()).inputs.cells.parts[0]
    spec = ModelSpec(name=name, encoder="frozen")
    rows, found = np.arange(5), []
    for device in (torch.device("cpu"), DEVICE):
        with pretended():
            model = build(spec, 2, 16, seed=0)
            found.append(extract(model, cells, rows, device))
            assert {value.device for value in model.state_dict().values()} == {device}
    assert np.array_equal(*found)


def test_an_encoder_is_trained_on_the_device(site: Site) -> None:
    cells = workspace(site, study()).inputs.cells.parts[0]
    recipe = Recipe(spec=ModelSpec(name="cnn", width=1), epochs=1, batch_size=8)
    with pretended():
        network, record = pretrain(cells, "cells", recipe, DEVICE, lambda *_: None)
    assert all(isinstance(value, Elsewhere) for value in network.parameters())
    assert np.isfinite(record.balanced_accuracy)


def test_each_worker_of_a_machine_computes_on_a_gpu_of_its_own(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    seen = []

    def handler(message: object, request: Request) -> RecordDict:
        seen.append(request.site.runtime.device)
        return RecordDict()

    for turn in range(3):
        _asked(handler, None, datetime.now, turn, message(study()), site)
    assert seen == ["cuda:0", "cuda:1", "cuda:0"]


def test_tensors_of_two_devices_do_not_meet() -> None:
    with pretended() as device:
        there, here = torch.ones(3, device=device), torch.ones(3)
        for mixed in (
            lambda: there + here,
            lambda: there.add_(here),
            lambda: torch.cat([here, there]),
            lambda: here[there.long()],
            lambda: nn.functional.linear(there, here),
        ):
            with pytest.raises(MixedDevicesError):
                mixed()
        with pytest.raises((RuntimeError, TypeError)):
            there.numpy()
        assert float((there * torch.tensor(2.0)).sum()) == 6.0
        assert there[torch.tensor([0])].device == device
        assert here.copy_(there).device == torch.device("cpu")
