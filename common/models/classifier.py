"""What every classifier offers, whichever network is inside."""

from typing import Self

from torch import Tensor, nn
from torch.nn import functional as F

from common.models.layers import Centred


class Classifier(nn.Module):
    """An encoder (images -> embeddings) and a linear head (embeddings -> logits).

    Attributes: `encoder`, `head`, `embedding_dim` (D), `input_side` (pixels), `frozen`. A frozen
    encoder has no trainable parameter and stays in evaluation mode; then `head` alone can train
    on embeddings that were computed once.
    """

    def __init__(
        self, encoder: nn.Module, head: nn.Module, embedding_dim: int, input_side: int, frozen: bool
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head
        self.embedding_dim = embedding_dim
        self.input_side = input_side
        self.frozen = frozen
        encoder.requires_grad_(not frozen)
        self.train()

    def embed(self, images: Tensor) -> Tensor:
        """(N, 3, S, S) float, ImageNet-normalised -> (N, D); other sides are resized."""
        side = images.shape[-1]
        if images.shape[-2:] != (self.input_side, self.input_side):
            images = F.interpolate(
                images,
                size=(self.input_side, self.input_side),
                mode="bilinear",
                align_corners=False,
                antialias=side > self.input_side,
            )
        features: Tensor = self.encoder(images)
        return features

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, S, S) float, ImageNet-normalised -> logits (N, classes)."""
        logits: Tensor = self.head(self.embed(images))
        return logits

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that train, by name, in the order of definition, which all sites share."""
    return {name: value for name, value in model.named_parameters() if value.requires_grad}


def federated(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that travel, by name, in the order of definition.

    They are those that train, and the centre of the features, which the first round finds.
    """
    centres = {id(part.centre) for part in model.modules() if isinstance(part, Centred)}
    return {
        name: value
        for name, value in model.named_parameters()
        if value.requires_grad or id(value) in centres
    }


def parameter_count(model: nn.Module) -> int:
    """The number of values in all parameters, trainable or not."""
    return sum(value.numel() for value in model.parameters())
