"""Exact sums of clipped per-unit gradients: the part of DP-SGD before the noise."""

from common.privacy.clipping.clip_rule import Clipping, ClipRule
from common.privacy.clipping.engine import (
    ClippedSum,
    EngineName,
    clipped_gradient_sum,
    refuse_row_mixing,
)

__all__ = [
    "ClipRule",
    "ClippedSum",
    "Clipping",
    "EngineName",
    "clipped_gradient_sum",
    "refuse_row_mixing",
]
