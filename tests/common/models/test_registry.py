"""The contract that training relies on, for every classifier that needs no file."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.config.study import ModelSpec
from common.errors import ModelError
from common.models import build, trainable
from common.models.classifier import parameter_count

SPECS = {
    "cnn": (ModelSpec(), 64),
    "cnn narrow": (ModelSpec(width=8), 28),
    "cnn odd": (ModelSpec(width=5), 33),
    "resnet18": (ModelSpec(name="resnet18"), 16),
    "resnet18 middle": (ModelSpec(name="resnet18"), 48),
    "resnet18 large": (ModelSpec(name="resnet18"), 128),
    "efficientnet-lite0": (ModelSpec(name="efficientnet-lite0"), 64),
}

each = pytest.mark.parametrize(("spec", "side"), SPECS.values(), ids=SPECS.keys())


def images(count: int, side: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


@each
def test_embedding_and_logits_have_the_promised_shapes(spec: ModelSpec, side: int) -> None:
    model = build(spec, 7, side, seed=0)
    batch = images(3, side)
    embedded = model.embed(batch)
    assert embedded.shape == (3, model.embedding_dim)
    assert torch.equal(model(batch), model.head(embedded))
    assert model(batch).shape == (3, 7)
    assert model.input_side == side


@each
def test_a_seed_decides_every_weight_and_nothing_else_is_drawn(spec: ModelSpec, side: int) -> None:
    before = torch.random.get_rng_state()
    first, again, other = (build(spec, 5, side, seed).state_dict() for seed in (3, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)
    assert all(torch.isfinite(value).all() for value in first.values())


@each
def test_an_image_is_judged_by_itself(spec: ModelSpec, side: int) -> None:
    model = build(spec, 4, side, seed=0)
    model.train()
    batch = images(4, side)
    alone = torch.cat([model(image[None]) for image in batch])
    torch.testing.assert_close(model(batch), alone, rtol=1e-3, atol=1e-4)


@each
def test_every_trainable_parameter_gets_a_gradient(spec: ModelSpec, side: int) -> None:
    model = build(spec, 4, side, seed=0)
    # The head starts small: larger weights let the encoder's gradients show.
    with torch.no_grad():
        for parameter in model.head.parameters():
            parameter.add_(images(1, 1).mean()).mul_(10)
    loss = torch.nn.functional.cross_entropy(model(images(4, side)), torch.tensor([0, 1, 2, 3]))
    loss.backward()  # type: ignore[no-untyped-call]
    for name, parameter in trainable(model).items():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert sum(float(p.grad.abs().sum()) > 0 for p in trainable(model).values()) > 4  # type: ignore[union-attr]


@each
def test_a_frozen_encoder_leaves_only_the_head(spec: ModelSpec, side: int) -> None:
    frozen = build(spec.model_copy(update={"encoder": "frozen"}), 4, side, seed=0)
    names = list(trainable(frozen))
    assert names == [name for name, _ in frozen.named_parameters() if name.startswith("head.")]
    frozen.train()
    assert frozen.training and frozen.head.training and not frozen.encoder.training
    assert not frozen.embed(images(2, side)).requires_grad
    assert frozen(images(2, side)).requires_grad


def test_a_frozen_and_a_training_model_start_from_the_same_weights() -> None:
    spec = ModelSpec(width=4)
    frozen = build(spec.model_copy(update={"encoder": "frozen"}), 4, 32, 1).state_dict()
    training = build(spec, 4, 32, 1).state_dict()
    assert all(torch.equal(frozen[name], training[name]) for name in training)


@settings(max_examples=10)
@given(width=st.integers(1, 24), side=st.integers(16, 70), classes=st.integers(2, 18))
def test_the_small_network_takes_any_width_and_side(width: int, side: int, classes: int) -> None:
    model = build(ModelSpec(width=width), classes, side, seed=0)
    assert model(images(2, side)).isfinite().all()


@pytest.mark.parametrize("side", [20, 64, 100])
def test_images_of_another_side_are_resized(side: int) -> None:
    model = build(ModelSpec(width=4), 3, 40, seed=0)
    grey = torch.full((2, 3, side, side), 0.5)
    torch.testing.assert_close(model(grey), model(torch.full((2, 3, 40, 40), 0.5)))
    assert model(images(2, side)).shape == (2, 3)


def test_sizes() -> None:
    assert 0.27e6 < parameter_count(build(ModelSpec(), 10, 64, 0).encoder) < 0.3e6
    assert 17_000 < parameter_count(build(ModelSpec(width=8), 10, 28, 0)) < 18_500
    assert 11.1e6 < parameter_count(build(ModelSpec(name="resnet18"), 10, 64, 0)) < 11.2e6


@pytest.mark.parametrize(
    ("spec", "what"),
    [
        (ModelSpec(name="resnet18", width=8), r"model\.width.*resnet18.*cnn"),
        (ModelSpec(weights="imagenet"), r"model\.weights.*efficientnet-lite0, not cnn"),
        (ModelSpec(name="dinov2-vits14"), r"model\.weights.*checkpoint"),
        (ModelSpec(weights="absent.safetensors"), r"absent\.safetensors.*pretrain"),
        (ModelSpec(name="dinov2-vits14", weights="absent.pth"), r"absent\.pth.*no such"),
    ],
)
def test_a_spec_that_cannot_be_built_says_what_to_change(spec: ModelSpec, what: str) -> None:
    with pytest.raises(ModelError, match=what):
        build(spec, 4, 64, 0)
