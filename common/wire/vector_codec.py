"""A flat vector's form on the wire. Flower's cost grows with the number of objects, so a model is
sent as one array."""

import hashlib
import math

import numpy as np
from flwr.app import Array
from numpy.typing import NDArray

from common.config.study import Number
from common.errors import ModelError

Vector = NDArray[np.float32]

_EXPONENT_BYTES = 2
_LARGEST_EXPONENT = 120
"""Largest exponent that is accepted: 2^120 and 2^-120 are float32 numbers of full precision."""
_LAST_BINADE = 113
"""The exponent where the largest value is 2^127 or more: rounded up to 2^128 it would be infinite.
"""
_BELOW_2_TO_15 = 32752.0
"""The last float16 below 2^15."""


def encode(values: Vector, number: Number = "float32") -> Array:
    """The vector, float32 (P,), as a Flower array of raw little-endian numbers.

    float16: each value v is rounded to v' with |v - v'| <= 2^-11 |v| + 2^-39 max|v|. All values are
    divided by one power of two, whose exponent precedes them, so that the largest lies in
    [2^14, 2^15): nothing overflows, however large, and little underflows. A vector that is not
    finite stays so, and raises nothing: an error would tell what a site's update looks like.

    >>> array = encode(np.array([1.0, 0.001, -1e6], np.float32), "float16")
    >>> decode(array, size=3, number="float16").tolist()
    [1.0, 0.00099945068359375, -999936.0]
    """
    if number == "float32":
        data = np.ascontiguousarray(values, dtype="<f4").tobytes()
    else:
        exponent = _exponent(values)
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            scaled = values * np.float32(2.0**-exponent)
            if exponent == _LAST_BINADE:
                scaled = scaled.clip(-_BELOW_2_TO_15, _BELOW_2_TO_15)
            halves = scaled.astype("<f2")
        data = exponent.to_bytes(_EXPONENT_BYTES, "little", signed=True) + halves.tobytes()
    return Array(dtype=number, shape=values.shape, stype=_stype(number), data=data)


def decode(array: Array, size: int, number: Number = "float32") -> Vector:
    """Read what `encode` wrote: float32 (size,).

    Raises ModelError unless the array holds exactly `size` such numbers.
    """
    data, stype = array.data, _stype(number)
    if (
        array.stype != stype
        or tuple(array.shape) != (size,)
        or len(data) != encoded_bytes(size, number)
    ):
        raise ModelError(
            f"expected {size} values as {stype}; got shape {tuple(array.shape)}, "
            f"{len(data)} bytes as {array.stype!r:.40}"
        )
    if number == "float32":
        return np.frombuffer(data, dtype="<f4")
    exponent = int.from_bytes(data[:_EXPONENT_BYTES], "little", signed=True)
    if abs(exponent) > _LARGEST_EXPONENT:
        raise ModelError(f"expected |exponent| <= {_LARGEST_EXPONENT} of {stype}; got {exponent}")
    halves = np.frombuffer(data, dtype="<f2", offset=_EXPONENT_BYTES)
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        return halves.astype(np.float32) * np.float32(2.0**exponent)


def encoded_bytes(size: int, number: Number) -> int:
    """Bytes that `size` values take on the wire, without those that Flower adds.

    >>> encoded_bytes(1000, "float32"), encoded_bytes(1000, "float16")
    (4000, 2002)
    """
    return 4 * size if number == "float32" else _EXPONENT_BYTES + 2 * size


def _exponent(values: Vector) -> int:
    """Exponent of the power of two that float16 values are divided by.

    0 for a vector of zeros and one that is not finite. float32 can multiply by the power and by its
    inverse.
    """
    largest = float(np.abs(values).max(initial=0))
    if largest == 0 or not np.isfinite(largest):
        return 0
    return max(math.frexp(largest)[1] - 15, -_LARGEST_EXPONENT)


def _stype(number: Number) -> str:
    return f"hemofed.{number}"


def array_digest(array: Array) -> str:
    """SHA-256 (hex) of the array's type, shape and bytes; kept with it, since many sites get it."""
    kept: str | None = vars(array).get("_hemofed_digest")
    if kept is None:
        head = f"{array.dtype} {tuple(array.shape)} {array.stype}\n".encode()
        digest = hashlib.sha256(head)
        digest.update(array.data)
        kept = vars(array)["_hemofed_digest"] = digest.hexdigest()
    return kept
