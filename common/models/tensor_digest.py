"""One name for what tensors hold."""

import hashlib
from collections.abc import Mapping

from torch import Tensor


def tensor_digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 (hex) of all tensors in order: name, shape, type, values."""
    digest = hashlib.sha256()
    for name, value in tensors.items():
        digest.update(f"{name}|{tuple(value.shape)}|{value.dtype}\n".encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
