"""A device that is not there: its tensors hold values, and meet no tensor of the CPU.

What runs on it would run on a GPU, as far as where its tensors lie goes: an operation on tensors of
both is an error, as on a GPU, with the exceptions that a GPU makes (copies, one number, indices).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("lazy", 0)
"""A kind that torch knows by name and cannot compute on; autograd runs it in the caller's thread,
and autocast does not know it."""

_SHAPE: dict[str, Callable[[Tensor], Any]] = {
    "aten::sym_size": Tensor.size,
    "aten::sym_stride": Tensor.stride,
    "aten::sym_numel": Tensor.numel,
    "aten::sym_storage_offset": Tensor.storage_offset,
    "aten::dim": Tensor.dim,
    "aten::is_contiguous": Tensor.is_contiguous,
}
_COPIES = {"aten::_to_copy", "aten::copy_"}
_INDEXES = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}


_AUTOCAST = torch.autocast


class MixedDevicesError(Exception):
    """An operation was given tensors of the pretended device and of the CPU."""


class Elsewhere(Tensor):
    """A tensor of the pretended device; `held` has its values."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor, requires_grad: bool = False) -> "Elsewhere":
        return Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=DEVICE,
            requires_grad=requires_grad,
            dispatch_sizes_strides_policy="sizes",  # `unsqueeze_` changes them in place
        )

    def __init__(self, held: Tensor, requires_grad: bool = False) -> None:
        self.held = held

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"Elsewhere({self.held})"

    def tolist(self) -> Any:
        """As a GPU's tensor does, and a subclass does not."""
        return self.held.tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Pretended(TorchDispatchMode):
    """Makes tensors there where a device is named; `Elsewhere` does the rest."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


@contextmanager
def pretended() -> Iterator[torch.device]:
    """The device, while the block lasts. Autocast does there what it does on the CPU; inference
    mode, in which no such tensor can be a view, keeps no gradients and no more."""

    def autocast(kind: str, *args: Any, **kwargs: Any) -> torch.amp.autocast:
        return _AUTOCAST("cpu" if kind == DEVICE.type else kind, *args, **kwargs)

    # Else torch.tensor makes its tensor at once where it is told, by no operation that is seen.
    torch._C._set_only_lift_cpu_tensors(True)
    try:
        with (
            _Pretended(),
            patch.object(torch, "autocast", autocast),
            patch.object(torch, "inference_mode", torch.no_grad),
        ):
            yield DEVICE
    finally:
        torch._C._set_only_lift_cpu_tensors(False)


def _run(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Check where the tensors lie, compute on the CPU, and lay the result where it belongs."""
    name = func._schema.name
    if name in _SHAPE:
        return _SHAPE[name](_held(args[0]))
    lies_there = _check(func, args, kwargs)
    named = kwargs.get("device")
    if named is not None:
        lies_there = torch.device(named).type == DEVICE.type
        kwargs = {**kwargs, "device": torch.device("cpu")}
    out = func(*tree_map(_held, tuple(args)), **tree_map(_held, dict(kwargs)))
    if func._schema.is_mutable:
        return args[0] if name.endswith("_") and out is not None else kwargs.get("out", out)
    return tree_map(_laid_there, out) if lies_there else out


def _check(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether tensors of the device are among what is given. Raises MixedDevicesError."""
    name, given = func._schema.name, _tensors((tuple(args), dict(kwargs)))
    there = [tensor for tensor in given if isinstance(tensor, Elsewhere)]
    here = [tensor for tensor in given if not isinstance(tensor, Elsewhere)]
    if name in _INDEXES and isinstance(args[0], Elsewhere):
        here = []  # a GPU takes indices from the CPU
    if there and name not in _COPIES and any(tensor.dim() for tensor in here):
        lie = ", ".join(f"{tuple(tensor.shape)} on {tensor.device}" for tensor in given)
        raise MixedDevicesError(f"{func}: {lie}")
    return bool(there)


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _held(value: Any) -> Any:
    return value.held if isinstance(value, Elsewhere) else value


def _laid_there(value: Any) -> Any:
    return Elsewhere(value) if isinstance(value, Tensor) else value
