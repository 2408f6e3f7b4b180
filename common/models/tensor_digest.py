"""A digest that names the content of tensors."""

import hashlib
from collections.abc import Mapping

from torch import Tensor


def tensor_digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 (hex) of the name, shape, type and values of all tensors, in order."""
    digest = hashlib.sha256()
    for name, value in tensors.items():
        digest.update(f"{name}|{tuple(value.shape)}|{value.dtype}\n".encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
