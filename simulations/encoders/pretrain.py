"""Trains an encoder on public cells, WITHOUT privacy, for studies to start from."""

import importlib.metadata
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from client.data.splits import of_cache
from client.data.store import CellCache
from client.training.augmentation import augment, draw_views
from common.cell_types import CELL_TYPES
from common.config.study import ModelSpec
from common.device import autocast, laid_out, place, quickest
from common.errors import ConfigError, DataError
from common.metrics import Tally
from common.models.classifier import Classifier, trainable
from common.models.encoder_file import EncoderRecord
from common.models.pixels import to_tensor
from common.models.registry import build

Rows = NDArray[np.int64]
Progress = Callable[[int, int], None]
"""Called with the number of steps done and the number of all steps."""

FRACTIONS = (0.9, 0.1, 0.0)
"""Shares of the cells for training, validation and test."""
WARMUP = 0.05
"""Share of the steps over which the learning rate rises from 0."""
CLIP = 5.0
"""Bound of a step's gradient norm, which matters only in the first steps."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Settings of a pretraining: AdamW with a cosine schedule, on augmented views of the cells."""

    spec: ModelSpec
    epochs: int = 10
    learning_rate: float = 1e-3
    """The highest learning rate."""
    weight_decay: float = 0.01
    batch_size: int = 32
    seed: int = 0
    """Decides the split, the initial weights, the order of the cells and their views."""
    cell_types: tuple[str, ...] | None = None
    """The cell types to learn; None: all types that the cells have."""


def pretrain(
    cells: CellCache, source: str, recipe: Recipe, device: torch.device, progress: Progress
) -> tuple[Classifier, EncoderRecord]:
    """Train a classifier on nine tenths of the cells, and measure it on the rest.

    The cells of a known patient are all in one part. The result has no privacy: its weights can
    reveal the cells, so use public cells only.

    Args:
        cells: the public cells.
        source: the name of their source, for the record.
        recipe: the settings.
        device: where to train.
        progress: called after each step.

    Returns:
        The trained classifier, and the record of how it was made and how good it is.

    Raises:
        DataError: there are fewer than two cell types.
        ConfigError: the cells lack a cell type of the recipe, or its encoder is frozen.
    """
    classes = _classes(cells, recipe)
    cells = cells.select(_rows_of(cells, classes))
    labels = np.searchsorted(np.array(classes), cells.labels)
    split = of_cache(cells, seed=recipe.seed, fractions=FRACTIONS)
    model = build(recipe.spec, len(classes), cells.side, recipe.seed)
    place(model, device)
    train, validation = (np.flatnonzero(split == name) for name in ("train", "validation"))
    _fit(model, cells, labels, train, recipe, device, progress)
    tally = evaluate(model, cells, labels, validation, len(classes), device)
    measured = tally.metrics()
    record = EncoderRecord(
        model=recipe.spec.name,
        width=recipe.spec.width,
        side=cells.side,
        source=source,
        fingerprint=cells.fingerprint,
        classes=tuple(CELL_TYPES[code].name for code in classes),
        images=len(train),
        epochs=recipe.epochs,
        seed=recipe.seed,
        learning_rate=recipe.learning_rate,
        started_from=recipe.spec.weights,
        accuracy=measured["accuracy"],
        balanced_accuracy=measured["balanced_accuracy"],
        validation_images=len(validation),
        hemofed=importlib.metadata.version("hemofed"),
    )
    return model, record


def evaluate(
    model: Classifier,
    cells: CellCache,
    labels: Rows,
    rows: Rows,
    classes: int,
    device: torch.device,
) -> Tally:
    """Return the counts of the model's predictions for the cells at `rows`.

    labels: (N,) the class of each cell, in 0..classes-1.
    """
    tally = Tally.empty(classes)
    model.eval()
    with torch.inference_mode():
        for start in range(0, len(rows), 128):
            part = rows[start : start + 128]
            logits = model(to_tensor(cells.take(part), device))
            tally += Tally.of(logits.double().softmax(1).cpu().numpy(), labels[part])
    return tally


def _classes(cells: CellCache, recipe: Recipe) -> list[int]:
    """Return the codes of the cell types to learn, ascending."""
    if recipe.spec.encoder == "frozen":
        raise ConfigError("pretraining trains the encoder; a frozen one cannot be pretrained")
    present = [code for code, cell in enumerate(CELL_TYPES) if cell.name in cells.counts]
    names = [CELL_TYPES[code].name for code in present]
    absent = [name for name in recipe.cell_types or () if name not in names]
    if absent:
        raise ConfigError(
            f"cell types: {absent[0]!r} is not among the cells; found: {', '.join(names)}"
        )
    chosen = [
        code
        for code, name in zip(present, names, strict=True)
        if recipe.cell_types is None or name in recipe.cell_types
    ]
    if len(chosen) < 2:
        raise DataError(f"an encoder needs two cell types or more to learn from; found {names}")
    return chosen


def _rows_of(cells: CellCache, classes: list[int]) -> Rows:
    return np.flatnonzero(np.isin(cells.labels, classes))


def _fit(
    model: Classifier,
    cells: CellCache,
    labels: Rows,
    rows: Rows,
    recipe: Recipe,
    device: torch.device,
    progress: Progress,
) -> None:
    parameters = list(trainable(model).values())
    optimizer = torch.optim.AdamW(
        parameters, recipe.learning_rate, weight_decay=recipe.weight_decay
    )
    rng = np.random.default_rng(recipe.seed)
    views = torch.Generator().manual_seed(recipe.seed)
    per_epoch = math.ceil(len(rows) / recipe.batch_size)
    total = per_epoch * recipe.epochs
    model.train()
    for step in range(total):
        if step % per_epoch == 0:
            order = rng.permutation(rows)
        start = step % per_epoch * recipe.batch_size
        chosen = order[start : start + recipe.batch_size]
        images = augment(to_tensor(cells.take(chosen), device), draw_views(len(chosen), views))
        targets = torch.from_numpy(labels[chosen]).to(device)
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * _schedule((step + 1) / total)
        optimizer.zero_grad()
        _loss(model, images, targets).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, CLIP)
        optimizer.step()
        progress(step + 1, total)


def _loss(model: Classifier, images: Tensor, targets: Tensor) -> Tensor:
    with autocast(images.device, quickest(images.device, "bfloat16")):
        logits = model(laid_out(images, model))
    return F.cross_entropy(logits.float(), targets)


def _schedule(done: float) -> float:
    """Return the factor of the learning rate after the share `done`, in (0, 1], of all steps.

    It rises from 0 and then falls as half a cosine.
    """
    return min(done / WARMUP, 1.0) * 0.5 * (1 + math.cos(math.pi * done))
