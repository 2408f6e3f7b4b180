"""ViT-S/14 from files of DINOv2's and DinoBloom's layouts."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from common.config.study import ModelSpec
from common.errors import ModelError
from common.models import build, trainable
from common.models.classifier import parameter_count
from common.models.vit import DIM, HEADS, Block, VisionTransformer

State = dict[str, Tensor]
VITS14_PARAMETERS = 22_056_576
"""DINOv2's ViT-S/14 at 518 px (1370 tokens), mask token included."""


def documented_state(tokens: int = 257) -> State:
    """Names and shapes as DINOv2 documents them, written out apart from our module."""
    generator = torch.Generator().manual_seed(0)
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, 384),
        "pos_embed": (1, tokens, 384),
        "mask_token": (1, 384),
        "patch_embed.proj.weight": (384, 3, 14, 14),
        "patch_embed.proj.bias": (384,),
        "norm.weight": (384,),
        "norm.bias": (384,),
    }
    block = {
        "norm1.weight": (384,),
        "norm1.bias": (384,),
        "attn.qkv.weight": (1152, 384),
        "attn.qkv.bias": (1152,),
        "attn.proj.weight": (384, 384),
        "attn.proj.bias": (384,),
        "ls1.gamma": (384,),
        "norm2.weight": (384,),
        "norm2.bias": (384,),
        "mlp.fc1.weight": (1536, 384),
        "mlp.fc1.bias": (1536,),
        "mlp.fc2.weight": (384, 1536),
        "mlp.fc2.bias": (384,),
        "ls2.gamma": (384,),
    }
    for number in range(12):
        shapes |= {f"blocks.{number}.{name}": shape for name, shape in block.items()}
    return {name: torch.randn(s, generator=generator) * 0.05 for name, s in shapes.items()}


@pytest.fixture(scope="module")
def state() -> State:
    return documented_state()


@pytest.fixture
def save(tmp_path: Path) -> Callable[[object], str]:
    def write(content: object) -> str:
        path = tmp_path / "encoder.pth"
        torch.save(content, path)
        return str(path)

    return write


def spec(path: str) -> ModelSpec:
    return ModelSpec(name="dinov2-vits14", weights=path, encoder="frozen")


def teacher(state: State) -> dict[str, State]:
    """DinoBloom's layout: the encoder as `backbone.`, beside the heads of the pretraining."""
    layer = {f"backbone.{name}": value for name, value in state.items()}
    heads = {"dino_head.mlp.0.weight": torch.zeros(3), "ibot_head.last.bias": torch.zeros(3)}
    return {"teacher": layer | heads}


def test_dinobloom_layout(state: State, save: Callable[[object], str]) -> None:
    model = build(spec(save(teacher(state))), 10, 96, seed=0)
    loaded = model.encoder.state_dict()
    assert set(loaded) == set(state) - {"mask_token"}
    assert all(torch.equal(loaded[name], state[name]) for name in loaded)
    assert list(trainable(model)) == ["head.1.weight", "head.1.bias"]
    assert (model.input_side, model.embedding_dim) == (224, 384)
    features = model.embed(torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(0)))
    assert features.shape == (2, 384)
    assert features.isfinite().all()
    assert not torch.allclose(features[0], features[1])


def test_released_layout_of_518_px_is_interpolated(
    state: State, save: Callable[[object], str]
) -> None:
    large = state | {"pos_embed": documented_state(1370)["pos_embed"]}
    assert sum(value.numel() for value in large.values()) == VITS14_PARAMETERS
    smooth = torch.linspace(-1, 1, 37).view(1, 37, 1, 1) + torch.zeros(1, 37, 37, DIM)
    large["pos_embed"] = torch.cat((large["pos_embed"][:, :1], smooth.flatten(1, 2)), dim=1)
    encoder = build(spec(save(large)), 10, 224, seed=0).encoder
    resized = encoder.get_parameter("pos_embed")
    assert resized.shape == (1, 257, DIM)
    assert torch.equal(resized[:, 0], large["pos_embed"][:, 0])
    rows = resized[0, 1:].view(16, 16, DIM)[:, 0, 0]
    torch.testing.assert_close(rows, torch.linspace(-0.96, 0.96, 16), atol=0.03, rtol=0)


def test_chunked_blocks_are_renamed(state: State, save: Callable[[object], str]) -> None:
    chunked = {
        re.sub(r"^blocks\.(\d+)\.", lambda m: f"blocks.{int(m[1]) // 4}.{m[1]}.", name): value
        for name, value in state.items()
    }
    encoder = build(spec(save(chunked)), 10, 224, seed=0).encoder
    assert torch.equal(
        encoder.get_parameter("blocks.11.mlp.fc2.weight"), state["blocks.11.mlp.fc2.weight"]
    )


def damaged(state: State, change: str) -> object:
    changed: dict[str, object] = dict(state)
    match change:
        case "missing":
            del changed["blocks.3.ls1.gamma"]
        case "unknown":
            changed["register_tokens"] = torch.zeros(1, 4, 384)
        case "shape":
            changed["norm.weight"] = torch.zeros(768)
        case "not finite":
            changed["norm.weight"] = torch.full((384,), float("nan"))
        case "no encoder":
            return {"epoch": 3, "optimizer": {}}
        case "not a dict":
            return [1, 2]
        case "teacher":
            return {"teacher": 5}
    return changed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("missing", r"missing blocks\.3\.ls1\.gamma"),
        ("unknown", "unknown register_tokens"),
        ("shape", r"norm\.weight has shape \(768,\), not \(384,\)"),
        ("not finite", r"norm\.weight holds values that are not finite"),
        ("no encoder", "holds no ViT encoder.*epoch"),
        ("not a dict", "expected a dict of tensors, found list"),
        ("teacher", "teacher is a int"),
    ],
)
def test_a_file_that_does_not_fit_is_named_with_the_reason(
    state: State, save: Callable[[object], str], change: str, message: str
) -> None:
    with pytest.raises(ModelError, match=rf"encoder\.pth.*{message}"):
        build(spec(save(damaged(state, change))), 10, 224, seed=0)


class Harmful:
    """An object that a pickle would rebuild by calling code."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("ran",)


def test_objects_other_than_tensors_are_refused(
    save: Callable[[object], str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ModelError, match="could run code"):
        build(spec(save({"teacher": Harmful()})), 10, 224, seed=0)
    assert "ran" not in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 cut off"])
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "encoder.pth"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"encoder\.pth"):
        build(spec(str(path)), 10, 224, seed=0)


def test_a_block_is_torch_s_own_prenorm_layer() -> None:
    ours = Block()
    reference = nn.TransformerEncoderLayer(
        DIM, HEADS, 4 * DIM, 0.0, "gelu", 1e-6, batch_first=True, norm_first=True
    )
    with torch.no_grad():
        ours.ls1.gamma.fill_(1)
        ours.ls2.gamma.fill_(1)
        reference.self_attn.in_proj_weight.copy_(ours.attn.qkv.weight)
        reference.self_attn.in_proj_bias.copy_(ours.attn.qkv.bias)
        reference.self_attn.out_proj.load_state_dict(ours.attn.proj.state_dict())
        reference.linear1.load_state_dict(ours.mlp.fc1.state_dict())
        reference.linear2.load_state_dict(ours.mlp.fc2.state_dict())
    tokens = torch.randn(2, 17, DIM, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours(tokens), reference(tokens), rtol=1e-4, atol=1e-5)


def test_size() -> None:
    assert parameter_count(VisionTransformer()) == VITS14_PARAMETERS - DIM - (1370 - 257) * DIM
