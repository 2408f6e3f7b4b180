"""ViT-S/14 as DINOv2 lays it out (Oquab et al. 2023, arXiv 2304.07193).

DinoBloom-S (Koch et al. 2024, arXiv 2404.05022), trained on blood and bone-marrow cells, is this
network. The parameters are named as in its checkpoints.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

DIM = 384
DEPTH = 12
HEADS = 6
PATCH = 14
SIDE = 224
TOKENS = (SIDE // PATCH) ** 2 + 1


class VisionTransformer(nn.Module):
    """(N, 3, 224, 224) ImageNet-normalised -> (N, 384): the class token after the last norm."""

    def __init__(self) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, DIM))
        self.pos_embed = nn.Parameter(torch.zeros(1, TOKENS, DIM))
        self.patch_embed = PatchEmbed()
        self.blocks = nn.Sequential(*(Block() for _ in range(DEPTH)))
        self.norm = nn.LayerNorm(DIM, eps=1e-6)

    def forward(self, images: Tensor) -> Tensor:
        patches = self.patch_embed(images)
        tokens = torch.cat((self.cls_token.expand(len(patches), -1, -1), patches), dim=1)
        normed: Tensor = self.norm(self.blocks(tokens + self.pos_embed))
        return normed[:, 0]


class PatchEmbed(nn.Module):
    """(N, 3, S, S) -> (N, (S / 14)^2, 384)."""

    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, DIM, PATCH, PATCH)

    def forward(self, images: Tensor) -> Tensor:
        patches: Tensor = self.proj(images).flatten(2).transpose(1, 2)
        return patches


class LayerScale(nn.Module):
    """A factor per channel (Touvron et al. 2021, arXiv 2103.17239)."""

    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((DIM,), 1e-5))

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens * self.gamma


class Attention(nn.Module):
    """Multi-head self-attention, (N, T, 384) -> (N, T, 384)."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(DIM, 3 * DIM)
        self.proj = nn.Linear(DIM, DIM)

    def forward(self, tokens: Tensor) -> Tensor:
        count, length, _ = tokens.shape
        qkv = self.qkv(tokens).reshape(count, length, 3, HEADS, DIM // HEADS)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value)
        projected: Tensor = self.proj(mixed.transpose(1, 2).reshape(count, length, DIM))
        return projected


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(DIM, 4 * DIM)
        self.fc2 = nn.Linear(4 * DIM, DIM)

    def forward(self, tokens: Tensor) -> Tensor:
        projected: Tensor = self.fc2(F.gelu(self.fc1(tokens)))
        return projected


class Block(nn.Module):
    """Pre-norm transformer block with LayerScale."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(DIM, eps=1e-6)
        self.attn = Attention()
        self.ls1 = LayerScale()
        self.norm2 = nn.LayerNorm(DIM, eps=1e-6)
        self.mlp = Mlp()
        self.ls2 = LayerScale()

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.ls1(self.attn(self.norm1(tokens)))
        mixed: Tensor = tokens + self.ls2(self.mlp(self.norm2(tokens)))
        return mixed
