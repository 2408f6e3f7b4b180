"""DINOv2 and DinoBloom checkpoints -> the names and shapes of `vit.VisionTransformer`."""

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from common.errors import ModelError
from common.models import vit
from common.models.weights import read_checkpoint

_UNUSED = ("dino_head.", "ibot_head.")
_MASK_TOKEN = "mask_token"  # noqa: S105 - only masked pretraining uses this tensor


def encoder_state(path: Path, sha256: str | None = None) -> dict[str, Any]:
    """The encoder in a checkpoint, by the names of `vit.VisionTransformer`.

    | layout                           | found in                          |
    |----------------------------------|-----------------------------------|
    | {"teacher": {"backbone.x": ...}} | DinoBloom, DINOv2's training runs |
    | {"x": ...}                       | DINOv2's released encoders        |

    Heads of the pretraining are dropped, chunked blocks (`blocks.0.3.`) are renamed, and position
    embeddings of another side (1370 tokens: 518 px) are interpolated to 224 px. Raises ModelError
    like `read_checkpoint`, and when there is no encoder in the checkpoint.
    """
    content = read_checkpoint(path, sha256)
    layer = content.get("teacher", content)
    if not isinstance(layer, dict):
        raise ModelError(f"{path}: teacher is a {type(layer).__name__}, not a dict of tensors")
    state = {
        _renamed(name): value
        for name, value in layer.items()
        if isinstance(name, str) and not name.startswith(_UNUSED)
    }
    state.pop(_MASK_TOKEN, None)
    if "pos_embed" not in state:
        raise ModelError(
            f"{path}: holds no ViT encoder (pos_embed is missing; keys start with "
            f"{', '.join(sorted(map(str, layer))[:3])}); expected DINOv2's or DinoBloom-S's layout"
        )
    state["pos_embed"] = _resized(state["pos_embed"])
    return state


def _renamed(name: str) -> str:
    return re.sub(r"^blocks\.\d+\.(\d+)\.", r"blocks.\1.", name.removeprefix("backbone."))


def _resized(pos_embed: Any) -> Any:
    """Position embeddings (1, 1 + n^2, D), resized for 224 px; anything else stays as it is.

    The interpolation is bicubic with DINOv2's offset of 0.1 patch, so that features match its own.
    """
    if not isinstance(pos_embed, Tensor) or pos_embed.ndim != 3:
        return pos_embed
    count, side = pos_embed.shape[1] - 1, vit.SIDE // vit.PATCH
    old = round(max(count, 0) ** 0.5)
    if old in (0, side) or old * old != count:
        return pos_embed
    grid = pos_embed[:, 1:].float().reshape(1, old, old, -1).permute(0, 3, 1, 2)
    scale = (side + 0.1) / old
    grid = F.interpolate(grid, scale_factor=(scale, scale), mode="bicubic")
    patches = grid.permute(0, 2, 3, 1).reshape(1, side * side, -1)
    return torch.cat((pos_embed[:, :1].float(), patches), dim=1)
