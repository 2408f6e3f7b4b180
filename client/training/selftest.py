"""Tests on this machine, with the study's model, whether what one unit adds depends on the others.

No maker of a processor's or a GPU's kernels promises that a row of a batch is computed the same
whichever rows stand beside it. The privacy of a study depends on it (see `common.privacy.noise`),
so a site tests it before it takes part: the code that trains, and the code that computes features
and classes, gets a unit alone, first, last and in between, and must give the same bits each time.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from client.data.site_cells import Rows, SiteCells
from client.training.augmentation import VIEW_DRAWS
from client.training.dp_sgd import Summand, clipped_sum, features, gradients
from client.training.evaluation import predict
from client.training.feature_cache import extract
from client.training.inputs import Drawn, Inputs
from client.training.job import Job
from common.config.study import ModelSpec, Participant, PrivacySpec, Site, Study
from common.device import place, resolve
from common.errors import PrivacyError
from common.models import Classifier, build, trainable
from common.privacy.clipping.chunking import chunk_rows
from common.wire.reasons import Reason

_COMPANY = ((0, 0), (0, 1), (3, 0), (7, 8), (18, 18))
"""Numbers of other cells (before, behind) the unit: kernels were seen to change between them."""
_OTHERS = 36
_LARGEST = (16, 32, 64, 512)
"""The largest chunks of the engines, in rows."""
_SEED = 11


def check_alone(site: Site, study: Study) -> None:
    """Raise PrivacyError where a unit's share of a sum, its features or its class depend on others.

    This takes seconds, once for each process and kind of study. A study without privacy does not
    depend on it, and is not tested.
    """
    member = study.cohort.get(site.name, Participant())
    if study.privacy.mode == "none":
        return
    device, threads = resolve(site.runtime.device), torch.get_num_threads()
    what = _fault(study, member.units, device, threads)
    if what:
        raise PrivacyError(
            f"study {study.name}: on this machine ({device}, threads: {threads}, torch "
            f"{torch.__version__}) {what} of one {study.privacy.unit} depend on which others there "
            "are, so no bound on what one adds would hold. Nothing was paid. Try runtime.device: "
            "cpu or runtime.threads: 1 in site.yaml, or another version of torch",
            Reason.DEVICE,
        )


@lru_cache(maxsize=4096)
def _fault(study: Study, units: int, device: torch.device, threads: int) -> str | None:
    """What depends on other units, in words, or None; kernels depend on the number of threads too.

    Each message asks this, so the answer is cached. The tests behind it are shared by a
    federation's studies, its baselines, and sites of similar size.
    """
    classes, side = len(study.cell_types), study.image_side
    what = _of_cells(study.model, classes, side, device, threads)
    if what or not units:  # a site of no units is only evaluated
        return what
    asked = study.model_copy(update={"name": "self-test", "description": "", "cohort": {}})
    rows = _job(study, units).expected_rows
    chunks = tuple(chunk_rows(rows, most) for most in _LARGEST)
    return _of_sums(asked, _ALIKE.setdefault((study.privacy, chunks), units), device, threads)


_ALIKE: dict[tuple[PrivacySpec, tuple[int, ...]], int] = {}
"""Privacy and chunks of all engines -> the number of units of the first site that had them."""


def _job(study: Study, units: int) -> Job:
    return Job(study, "self-test", Participant(units=units), 1)


@lru_cache(maxsize=16)
def _of_cells(
    spec: ModelSpec, classes: int, side: int, device: torch.device, threads: int
) -> str | None:
    """Which of a cell's features and probabilities depend on other cells, in words, or None."""
    model, images = _model(spec, classes, side, device), _Images(1 + _OTHERS, side)
    if model.frozen and not _same(_features(model, images, device)):
        return "the features"
    return None if _same(_probabilities(_inputs(model, images, device))) else "the probabilities"


@lru_cache(maxsize=64)
def _of_sums(study: Study, units: int, device: torch.device, threads: int) -> str | None:
    """What to say where a unit's share of a step's sum depends on others, or None."""
    model = _model(study.model, len(study.cell_types), study.image_side, device)
    images = _Images(study.privacy.cells_of_a_unit + _OTHERS, study.image_side)
    job, inputs = _job(study, units), _inputs(model, images, device)
    of = [gradients(study, inputs)]
    if study.model.centre:
        of.append(features(study, inputs)[1])
    sound = (_same(_shares(job, inputs, summand, cells)) for summand in of for cells in _sizes(job))
    return None if all(sound) else "the clipped gradients"


def _model(spec: ModelSpec, classes: int, side: int, device: torch.device) -> Classifier:
    model = build(spec, classes, side, _SEED)
    _unsettle(model)
    place(model, device)
    return model


@torch.no_grad()
def _unsettle(model: Classifier) -> None:
    """Add noise to the weights: a head of zeros, as studies begin with, would hide differences."""
    generator = torch.Generator().manual_seed(_SEED)
    for value in trainable(model).values():
        value.add_(0.1 * torch.randn(value.shape, generator=generator))


def _same(found: Iterator[Tensor]) -> bool:
    """Whether all tensors equal the first, to the last bit."""
    first = next(found)
    return all(torch.equal(one, first) for one in found)


@dataclass(frozen=True)
class _Images:
    """Made-up cells, which `extract` takes in place of a cache's."""

    count: int
    side: int
    fingerprint: str = "self-test"

    def __len__(self) -> int:
        return self.count

    def take(self, rows: NDArray[np.integer[Any]]) -> NDArray[np.uint8]:
        made = np.random.default_rng(_SEED)
        shape = (self.count, self.side, self.side, 3)
        pixels = made.integers(0, 256, shape, dtype=np.uint8)
        return np.asarray(pixels[rows])


def _inputs(model: Classifier, images: _Images, device: torch.device) -> Inputs:
    """The cells in the form that training gets; all but the unit's are labelled -1."""
    everyone = np.arange(len(images))
    labels = np.where(everyone < len(images) - _OTHERS, 0, -1)
    cells = SiteCells((), labels, np.full(len(images), "train"), everyone, held_out=False)
    if not model.frozen:
        return Inputs(cells, model, device, images=torch.from_numpy(images.take(everyone)))
    found = torch.from_numpy(extract(model, images, everyone, device))
    found[-1], found[-2] = torch.nan, 1e30 * found[-2]
    return Inputs(cells, model.head, device, features=found.to(device))


def _orders(cells: int, count: int) -> Iterator[tuple[Rows, NDArray[np.bool_]]]:
    """Orders of the first `cells` of `count` cells among others, and which positions are theirs."""
    own, others = np.arange(cells), np.arange(count - _OTHERS, count)
    for before, behind in _COMPANY:
        order = np.concatenate([others[:before], own, others[_OTHERS - behind :]])
        yield order, order < cells


def _features(model: Classifier, images: _Images, device: torch.device) -> Iterator[Tensor]:
    for order, own in _orders(1, len(images)):
        yield torch.from_numpy(extract(model, images, order, device)[own])


def _probabilities(inputs: Inputs) -> Iterator[Tensor]:
    for order, own in _orders(1, len(inputs.cells.labels)):
        yield torch.from_numpy(predict(inputs, order)[own])


def _sizes(job: Job) -> list[int]:
    """The fewest and the most cells that a unit has."""
    return sorted({1, job.study.privacy.cells_of_a_unit})


def _shares(job: Job, inputs: Inputs, of: Summand, cells: int) -> Iterator[Tensor]:
    """For each order, the sum of a unit of `cells` cells and of others whose loss is 0."""

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return of.loss(outputs, targets.clamp_min(0)) * (targets >= 0)

    alone = replace(of, loss=loss)
    views, draws = job.study.privacy.augmentations, None
    count = len(inputs.cells.labels)
    table = torch.rand((count, views, VIEW_DRAWS), generator=torch.Generator().manual_seed(_SEED))
    for order, own in _orders(cells, count):
        units = np.where(own, np.argmax(own), np.arange(len(order)))
        if job.study.training.augment:
            draws = table[order].flatten(0, 1)
        yield clipped_sum(job, inputs, alone, Drawn(order, units), draws)
