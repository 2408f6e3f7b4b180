"""`hemofed bench gpu`: the speed of a DP step, a frozen encoder and a private round on a GPU.

It prints three kinds of tables, at 224 px and 256 images per step:

- a DP-SGD step beside a plain one and Opacus, in float32 and in bfloat16;
- features per second of a frozen encoder, beside a bare loop, in both precisions;
- a site's private round, and its noise alone, which the CPU draws.

All take at most ten minutes. A contestant that does not fit in the GPU's memory is left out and
named.

hemofed clips in full float32 whatever the settings (`common.privacy.clipping.precision`). Plain SGD
and Opacus run once with torch's default settings and once without TF32.
"""

import gc
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from client.data.site_cells import SiteCells
from client.training.feature_cache import BATCH, extract
from client.training.inputs import Inputs
from client.training.job import Job
from client.training.training import train
from common.config.study import ModelSpec, Participant, PrivacySpec, Study, TrainingSpec
from common.device import Precision, autocast, laid_out, place, resolve
from common.errors import ConfigError
from common.files import write_text
from common.models import Classifier, build
from common.models.pixels import to_tensor
from common.privacy.clipping.precision import full_float32
from common.privacy.noise import privatise
from common.privacy.noise_source import NoiseSource
from simulations.bench.clipping.contestants import (
    BOUND,
    CLASSES,
    Contestant,
    OpacusGhost,
    OpacusHooks,
    Ours,
    Sgd,
)
from simulations.bench.harness import Measure, in_turn, record, report
from simulations.engine.seeded import SeededEntropy
from simulations.host_info import machine

_PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")

_TYPES = ("myeloblast", "lymphocyte")


@dataclass(frozen=True)
class Extent:
    """The size of what is measured."""

    model: Literal["cnn", "resnet18"]
    """The network of the steps and of a round."""
    encoder: Literal["cnn", "efficientnet-lite0"]
    """The frozen encoder."""
    side: int
    """Pixels along an image's edge."""
    batch: int
    """Images per step."""
    cells: int
    """The number of cells that the encoder sees, and that the round's site has."""
    steps: int
    """Steps of a private round."""
    repetitions: int


FULL = Extent("resnet18", "efficientnet-lite0", 224, 256, 4096, 5, 5)
QUICK = Extent("cnn", "cnn", 16, 4, 12, 1, 1)


def run(quick: bool, json_file: Path | None, device: str = "auto") -> None:
    """Measure, print the tables, and write them to `json_file` if given.

    device: "auto", a GPU such as "cuda:1", or, with `quick`, "cpu", which only tries the code.

    Raises:
        ConfigError: there is no such GPU, or `device` is "cpu" without `quick`.
    """
    where, size = _device(quick, device), QUICK if quick else FULL
    tables = [_steps(size, where, precision) for precision in _PRECISIONS]
    tables += [_features(size, where, precision) for precision in _PRECISIONS]
    tables += [_rounds(size, where)]
    if json_file:
        write_text(json_file, json.dumps({"machine": machine(), "tables": tables}, indent=2))


def _device(quick: bool, name: str) -> torch.device:
    if name == "cpu" and quick:
        return torch.device("cpu")
    if name == "cpu":
        raise ConfigError(
            "bench gpu: --device cpu only tries the code, and goes with --quick: what is measured "
            "on a GPU would take a CPU days"
        )
    if not torch.cuda.is_available():
        raise ConfigError(
            "bench gpu: torch finds no CUDA device here; run it on a machine with a GPU, or try "
            "its code with --device cpu --quick"
        )
    return resolve("cuda" if name == "auto" else name)


class Exact(Ours):
    """The step of a private site: the CPU draws exact noise, which is copied to the GPU."""

    def step(self) -> None:
        gradient = self.clipped_sum(len(self.inputs))
        self.update(
            privatise(
                gradient, max_grad_norm=BOUND, noise_multiplier=1.0, source=NoiseSource.secure()
            )
        )


_STEPS: dict[str, tuple[type[Contestant], bool]] = {
    "sgd": (Sgd, False),
    "sgd, no TF32": (Sgd, True),
    "hemofed": (Ours, False),
    "hemofed, exact noise": (Exact, False),
    "opacus ghost": (OpacusGhost, False),
    "opacus ghost, no TF32": (OpacusGhost, True),
    "opacus hooks": (OpacusHooks, False),
}
"""Name -> (the contestant, whether it must compute in full float32)."""


def _steps(size: Extent, device: torch.device, precision: Precision) -> dict[str, Any]:
    """Measure a step of each contestant in turn; "peak_mib" is the peak memory on the GPU."""
    contestants: dict[str, Measure] = {}
    for name, (kind, full) in _STEPS.items():
        measure = partial(_step, _prepared(size, device, precision, kind), device, full)
        if _runs(name, measure, device):
            contestants[name] = measure
    title = f"a step of {size.model}, {size.side} px, batch {size.batch}, {precision}"
    return _table(title, contestants, size.repetitions, "sgd")


class _InPrecision(nn.Module):
    """Computes the logits in a precision, and returns them as float32 for the loss."""

    def __init__(self, inner: nn.Module, precision: Precision) -> None:
        super().__init__()
        self.inner, self.precision = inner, precision

    def forward(self, images: Tensor) -> Tensor:
        with autocast(images.device, self.precision):
            logits: Tensor = self.inner(images)
        return logits.float()


def _prepared(
    size: Extent, device: torch.device, precision: Precision, kind: type[Contestant]
) -> Callable[[], Contestant]:
    """Return a function that makes the contestant anew, so that only one is in memory at a time."""

    def make() -> Contestant:
        generator = torch.Generator().manual_seed(7)
        model = build(ModelSpec(name=size.model), CLASSES, size.side, seed=7)
        place(model, device)
        images = torch.randn(size.batch, 3, size.side, size.side, generator=generator)
        targets = torch.randint(CLASSES, (size.batch,), generator=generator)
        images = laid_out(images.to(device), model)
        return kind(_InPrecision(model, precision), images, targets.to(device))

    return make


def _step(make: Callable[[], Contestant], device: torch.device, full: bool) -> dict[str, float]:
    """Measure the second step of a new contestant."""
    contestant = make()
    with full_float32() if full else nullcontext():
        contestant.step()
        with _measured(device) as figures:
            contestant.step()
    return figures


def _features(size: Extent, device: torch.device, precision: Precision) -> dict[str, Any]:
    """Measure `extract` of random pixels, beside the encoder alone on a batch on the device."""
    model = build(ModelSpec(name=size.encoder, encoder="frozen"), CLASSES, size.side, seed=7)
    place(model, device)
    cells = _Pixels(size.cells, size.side)
    contestants: dict[str, Measure] = {
        "the encoder alone": partial(_bare, model, cells, device, precision, size.batch),
        f"extract, {BATCH} at once": partial(_extracted, model, cells, device, precision, BATCH),
        f"extract, {size.batch} at once": partial(
            _extracted, model, cells, device, precision, size.batch
        ),
    }
    fitting = {name: one for name, one in contestants.items() if _runs(name, one, device)}
    title = f"features of {size.cells} cells, {size.encoder}, {size.side} px, {precision}"
    return _table(title, fitting, size.repetitions, "the encoder alone")


class _Pixels:
    """Random cells in memory, with the methods of a cell cache that `extract` needs."""

    fingerprint = "random"

    def __init__(self, count: int, side: int) -> None:
        self.held = np.random.default_rng(7).integers(0, 256, (count, side, side, 3), np.uint8)

    def __len__(self) -> int:
        return len(self.held)

    def take(self, rows: NDArray[np.integer[Any]]) -> NDArray[np.uint8]:
        taken: NDArray[np.uint8] = self.held[rows]
        return taken


def _bare(
    model: Classifier, cells: _Pixels, device: torch.device, precision: Precision, batch: int
) -> dict[str, float]:
    images = laid_out(to_tensor(cells.held[:batch], device), model.encoder)
    with _measured(device) as figures, torch.inference_mode(), autocast(device, precision):
        for _ in range(0, len(cells), batch):
            model.embed(images)
    return figures | {"features a second": len(cells) / figures["seconds"]}


def _extracted(
    model: Classifier, cells: _Pixels, device: torch.device, precision: Precision, batch: int
) -> dict[str, float]:
    with _measured(device) as figures:
        extract(model, cells, np.arange(len(cells)), device, precision, batch)
    return figures | {"features a second": len(cells) / figures["seconds"]}


def _rounds(size: Extent, device: torch.device) -> dict[str, Any]:
    """Measure a site's private round and its noise, for a head on features and a whole network."""
    head, network = (_Round(size, device, encoder) for encoder in ("frozen", "train"))
    contestants: dict[str, Measure] = {
        "a head's round": head.measure,
        "a head's noise": head.measure_noise,
        f"a round of {size.model}": network.measure,
        f"the noise of {size.model}": network.measure_noise,
    }
    fitting = {name: one for name, one in contestants.items() if _runs(name, one, device)}
    title = f"a private round of {size.steps} steps, {size.batch} cells each, {size.side} px"
    return _table(title, fitting, size.repetitions, "a head's round")


class _Round:
    """A private round of a site, whose cells are on the device as in the client."""

    def __init__(self, size: Extent, device: torch.device, encoder: str) -> None:
        self.device, self.steps = device, size.steps
        name = size.encoder if encoder == "frozen" else size.model
        spec = ModelSpec(name=name, encoder=encoder)
        self.job = Job(_study(size, spec), "site", Participant(units=size.cells), 1, 1.0)
        model = build(spec, len(_TYPES), size.side, seed=7)
        place(model, device)
        self.inputs = _inputs(size, model, device)

    def measure(self) -> dict[str, float]:
        """Measure the round."""
        with _measured(self.device) as figures:
            train(self.job, self.inputs, SeededEntropy(7))
        return figures

    def measure_noise(self) -> dict[str, float]:
        """Measure only the noise of as many steps, on a sum of zeros."""
        values = sum(p.numel() for p in self.inputs.network.parameters() if p.requires_grad)
        total, source = torch.zeros(values, device=self.device), NoiseSource.secure()
        with _measured(self.device) as figures:
            for _ in range(self.steps):
                privatise(total, max_grad_norm=BOUND, noise_multiplier=1.0, source=source)
        return figures


def _study(size: Extent, spec: ModelSpec) -> Study:
    return Study(
        name="bench",
        image_side=size.side,
        rounds=1,
        cell_types=_TYPES,
        model=spec,
        training=TrainingSpec(learning_rate=0.01),
        privacy=PrivacySpec(
            mode="local", sample_rate=size.batch / size.cells, local_steps=size.steps
        ),
        cohort={"site": Participant(units=size.cells)},
    )


def _inputs(size: Extent, model: Classifier, device: torch.device) -> Inputs:
    labels, everyone = np.arange(size.cells) % len(_TYPES), np.arange(size.cells)
    cells = SiteCells((), labels, np.full(size.cells, "train"), everyone, held_out=False)
    if model.frozen:
        generator = torch.Generator().manual_seed(7)
        features = torch.randn(size.cells, model.embedding_dim, generator=generator)
        return Inputs(cells, model.head, device, features=features.to(device))
    images = torch.from_numpy(_Pixels(size.cells, size.side).held)
    return Inputs(cells, model, device, images=images.to(device))


@contextmanager
def _measured(device: torch.device) -> Iterator[dict[str, float]]:
    """Note the seconds of the block, until the GPU has done its work, and the peak memory there."""
    figures: dict[str, float] = {}
    gpu = device.type == "cuda"
    if gpu:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    start = time.perf_counter()
    yield figures
    if gpu:
        torch.cuda.synchronize(device)
        figures["peak_mib"] = torch.cuda.max_memory_allocated(device) / 2**20
    figures["seconds"] = time.perf_counter() - start


def _runs(name: str, measure: Measure, device: torch.device) -> bool:
    """Return whether the contestant runs and fits in the GPU's memory; print it if it does not."""
    try:
        measure()
    except torch.OutOfMemoryError:
        print(f"{name}: left out, it needs more memory than the GPU has")
        return False
    except RuntimeError as error:
        if not name.startswith("opacus"):
            raise
        print(f"{name}: left out, it does not run: {str(error).splitlines()[0]}")
        return False
    finally:
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return True


def _table(
    title: str, contestants: dict[str, Measure], repetitions: int, reference: str
) -> dict[str, Any]:
    """Measure the contestants in turn, print a table, and return it as values for JSON."""
    reference = reference if reference in contestants else next(iter(contestants))
    outcomes = in_turn(contestants, repetitions, warmup=0)
    report(title, outcomes, reference, None)
    return record(title, outcomes, reference)
