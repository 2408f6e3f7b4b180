"""Classifiers by the name that a study gives them."""

from pathlib import Path

import torch
from torch import nn

from common.config.study import ModelSpec
from common.errors import ModelError
from common.models import dinov2, efficientnet, imagenet, resnet, vit
from common.models.classifier import Classifier
from common.models.cnn import DEFAULT_WIDTH, SmallCNN
from common.models.encoder_file import read_encoder
from common.models.layers import Centred, QuarterTurns, Standardise, initialise
from common.models.projection import projected
from common.models.weights import fit

IMAGENET = "imagenet"


def build(spec: ModelSpec, num_classes: int, image_side: int, seed: int) -> Classifier:
    """The classifier that `spec` names, its weights drawn from `seed` or loaded from `spec`.

    The same arguments give the same weights, bit for bit; the global generator is not used.
    Raises ModelError for weights that are missing or do not fit, and for a width where the
    architecture fixes it.
    """
    _check(spec)
    # Streams of their own: a head does not depend on the encoder before it.
    for_head, for_encoder = (torch.Generator().manual_seed(seed + n) for n in (0, 1))
    # The constructors of torch draw weights from the global generator; its state is put back and
    # every weight is drawn again from the seed, or loaded.
    with torch.random.fork_rng(devices=[]):
        encoder, dim, side = _encoder(spec, image_side)
        if spec.weights is None:
            initialise(encoder, for_encoder)
        else:
            _load(encoder, spec, spec.weights)
        if spec.features == "middle":
            encoder, dim = _middle_stages(encoder, spec)
        if spec.projection is not None:
            encoder, dim = projected(encoder, spec.projection, spec.projection_sha256)
        if spec.quarter_turns:
            encoder = QuarterTurns(encoder)
        head = _head(spec, dim, num_classes)
    initialise(head, for_head)
    return Classifier(encoder, head, dim, side, frozen=spec.encoder == "frozen")


def _check(spec: ModelSpec) -> None:
    if spec.width is not None and spec.name != "cnn":
        raise ModelError(f"model.width: {spec.name} has a fixed width; leave it out or choose cnn")
    if spec.weights == IMAGENET and spec.name != "efficientnet-lite0":
        raise ModelError(
            f"model.weights: there are imagenet weights for efficientnet-lite0, not {spec.name}"
        )
    if spec.weights is None and spec.name == "dinov2-vits14":
        raise ModelError(
            "model.weights: dinov2-vits14 starts from a checkpoint file in DINOv2's layout, like "
            "DinoBloom-S; download one and give its path"
        )


def _encoder(spec: ModelSpec, image_side: int) -> tuple[nn.Module, int, int]:
    """The network without its head, the size of its embedding, and its input side in pixels."""
    match spec.name:
        case "cnn":
            small = SmallCNN(spec.width or DEFAULT_WIDTH)
            return small, small.dim, image_side
        case "resnet18":
            return resnet.ResNet18(image_side), resnet.DIM, image_side
        case "efficientnet-lite0":
            return efficientnet.EfficientNetLite0(), efficientnet.DIM, image_side
        case "dinov2-vits14":
            return vit.VisionTransformer(), vit.DIM, vit.SIDE


def _middle_stages(network: nn.Module, spec: ModelSpec) -> tuple[nn.Module, int]:
    """The network up to its middle, and the size of its features there."""
    if not isinstance(network, efficientnet.EfficientNetLite0):
        raise ModelError(
            f"model.features: efficientnet-lite0 has middle ones, not {spec.name}; leave it out"
        )
    return efficientnet.MiddleStages(network), efficientnet.MiddleStages.DIM


def _head(spec: ModelSpec, dim: int, num_classes: int) -> nn.Module:
    """A linear head. Behind an encoder that was trained elsewhere, its inputs are standardised."""
    linear = nn.Linear(dim, num_classes)
    if spec.centre:
        return nn.Sequential(Standardise(), Centred(dim), linear)
    if spec.projection or spec.name in ("efficientnet-lite0", "dinov2-vits14"):
        return nn.Sequential(Standardise(), linear)
    return linear


def _load(encoder: nn.Module, spec: ModelSpec, weights: str) -> None:
    if weights == IMAGENET:
        checkpoint = imagenet.lite0_checkpoint()
        fit(encoder, imagenet.lite0_encoder_state(checkpoint), str(checkpoint))
        return
    path = Path(weights)
    if spec.name == "dinov2-vits14":
        fit(encoder, dinov2.encoder_state(path, spec.weights_sha256), str(path))
        return
    record, state = read_encoder(path, spec.weights_sha256)
    if record.model != spec.name:
        raise ModelError(
            f"{path}: is an encoder of {record.model}; set model.name to it, or give other weights "
            f"for {spec.name}"
        )
    fit(encoder, state, f"{path} ({record.model}, width {record.width}, {record.side} px)")
