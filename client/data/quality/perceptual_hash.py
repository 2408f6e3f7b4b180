"""A perceptual hash of 64 bits, and all pairs of images whose hashes are near.

The hash holds one bit for each of a picture's low frequencies (Zauner 2010, "Implementation and
Benchmarking of Perceptual Image Hash Functions", section 3.2.1). If two hashes differ in at most 7
bits, at least one of their 4 words of 16 bits differs in at most one bit. Looking up each word and
its 16 neighbours therefore finds every such pair (multi-index hashing: Norouzi et al. 2012, CVPR,
section 2).
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

THUMBNAIL = 16
_SIDE = 32
_WORDS = 1 << 16
_BLOCK = 1 << 18
"""Pairs that are compared at once; this bounds the memory."""
_CROWD = 256
"""How many of the rows that share a word are compared with a query; this bounds the time. Of 14,525
real cells at most 27 share a word."""

_k = np.arange(9)[:, None]
_COSINES = np.cos(np.pi * (2 * np.arange(_SIDE)[None] + 1) * _k / (2 * _SIDE)).astype(np.float32)
_FLIP = (-1.0) ** np.arange(9, dtype=np.float32)

Hashes = NDArray[np.uint64]
Pairs = tuple[NDArray[np.int64], NDArray[np.int64]]


def hashes(image: Image.Image) -> Hashes:
    """Hashes (8,) of the picture in its 8 orientations; number 0 is the picture as it is.

    Bit 0 of an orientation's number mirrors left and right, bit 1 mirrors top and bottom, and bit
    2 then swaps rows and columns.
    """
    grey = image.convert("L").resize((_SIDE, _SIDE), Image.Resampling.BOX)
    spectrum = _COSINES @ np.asarray(grey, dtype=np.float32) @ _COSINES.T
    turned = []
    for orientation in range(8):
        part = spectrum
        if orientation & 1:
            part = part * _FLIP[None, :]
        if orientation & 2:
            part = part * _FLIP[:, None]
        turned.append(_signs(part.T if orientation & 4 else part))
    return np.array(turned, dtype=np.uint64)


def turn(thumbnails: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Turn pictures (N, S, S, C) to an orientation, numbered as in `hashes`.

    >>> turn(np.array([[[[1], [2]], [[3], [4]]]], np.uint8), 1)[0, ..., 0].tolist()
    [[2, 1], [4, 3]]
    """
    if orientation & 1:
        thumbnails = thumbnails[:, :, ::-1]
    if orientation & 2:
        thumbnails = thumbnails[:, ::-1]
    return thumbnails.transpose(0, 2, 1, 3) if orientation & 4 else thumbnails


def _signs(spectrum: NDArray[np.float32]) -> np.uint64:
    """One bit for each of 64 low frequencies: whether it lies above their median."""
    # The next frequency down the first column takes the place of the mean.
    values = np.append(spectrum[:8, :8].ravel()[1:], spectrum[8, 0])
    bits = np.packbits(values > np.median(values))
    return np.uint64(int.from_bytes(bits.tobytes(), "big"))


def near_pairs(queries: Hashes, base: Hashes, distance: int) -> Iterator[Pairs]:
    """Yield pairs (i, j), i < j, whose `queries[i]` and `base[j]` differ in few bits.

    queries, base: hashes (N,) of the same images. distance: the most bits, at most 7. The pairs
    come in blocks, and a pair may come more than once.

    Guarantees: if no word of 16 bits occurs in more than `_CROWD` of `base`, every such pair comes.
    Time and memory are linear in N for any input.
    """
    for word in range(4):
        keys, wanted = _words(base, word), _words(queries, word)
        order = np.argsort(keys, kind="stable")
        starts = np.searchsorted(keys[order], np.arange(_WORDS + 1))
        for probe in (0, *(1 << bit for bit in range(16))):
            first = starts[wanted ^ probe]
            number = np.minimum(starts[(wanted ^ probe) + 1] - first, _CROWD)
            for left, places in _expanded(first, number):
                right = order[places]
                near = np.bitwise_count(queries[left] ^ base[right]) <= distance
                near &= left < right
                yield left[near], right[near]


def neighbours(base: Hashes, distance: int) -> Iterator[Pairs]:
    """Yield pairs (i, j) of neighbours in a sorted `base` that differ in at most `distance` bits.

    `base` (N,) is sorted four times, each time with another of its 4 words in front. In a crowd of
    near hashes these pairs connect most of it.
    """
    for word in range(4):
        shift = np.uint64(16 * word)
        rotated = base if not word else (base << shift) | (base >> (np.uint64(64) - shift))
        order = np.argsort(rotated, kind="stable")
        left, right = order[:-1], order[1:]
        near = np.bitwise_count(base[left] ^ base[right]) <= distance
        yield left[near], right[near]


def _words(values: Hashes, word: int) -> NDArray[np.int64]:
    return ((values >> np.uint64(16 * word)) & np.uint64(_WORDS - 1)).astype(np.int64)


def _expanded(
    first: NDArray[np.int64], lengths: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield (rows, places) in blocks: row i with each of `lengths[i]` places from `first[i]` on."""
    full = np.flatnonzero(lengths)
    for rows in np.split(full, _cuts(lengths[full])):
        number = lengths[rows]
        before = np.cumsum(number) - number
        left = np.repeat(rows, number)
        yield left, np.arange(len(left)) + np.repeat(first[rows] - before, number)


def _cuts(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where to cut the rows so that the lengths in each run add up to about `_BLOCK`."""
    total = np.cumsum(lengths)
    end = int(total[-1]) if len(total) else 0
    cuts: NDArray[np.int64] = np.searchsorted(total, np.arange(_BLOCK, end, _BLOCK))
    return cuts
