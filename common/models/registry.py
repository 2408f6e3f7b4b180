"""Classifiers by the name that a study gives them."""

import torch
from torch import nn

from common.config import ModelSpec
from common.errors import ModelError
from common.models.classifier import Classifier
from common.models.cnn import DEFAULT_WIDTH, SmallCNN
from common.models.layers import initialise


def build(spec: ModelSpec, num_classes: int, image_side: int, seed: int) -> Classifier:
    """The classifier that `spec` names, its weights drawn from `seed` or loaded from `spec`.

    The same arguments give the same weights, bit for bit; the global generator is not used.
    Raises ModelError: weights that are missing or do not fit, a width for a fixed architecture.
    """
    # The constructors of torch draw weights from the global generator; those draws are undone
    # here and every weight is drawn again from the seed.
    with torch.random.fork_rng(devices=[]):
        encoder, dim, side = _encoder(spec, image_side)
        head = nn.Linear(dim, num_classes)
    generator = torch.Generator().manual_seed(seed)
    initialise(head, generator)
    initialise(encoder, generator)
    return Classifier(encoder, head, dim, side, frozen=spec.encoder == "frozen")


def _encoder(spec: ModelSpec, image_side: int) -> tuple[nn.Module, int, int]:
    if spec.name == "cnn":
        encoder = SmallCNN(spec.width or DEFAULT_WIDTH)
        return encoder, encoder.dim, image_side
    raise ModelError(f"model.name: {spec.name} is not available")
