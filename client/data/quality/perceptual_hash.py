"""A perceptual hash of 64 bits, and all pairs of images whose hashes are near.

The hash is the sign pattern of a picture's low frequencies (Zauner 2010, "Implementation and
Benchmarking of Perceptual Image Hash Functions", section 3.2.1). Of two hashes that differ in at
most 7 bits, at least one of the 4 words of 16 bits differs in at most one, so looking up each word
and its 16 neighbours finds every such pair (multi-index hashing: Norouzi et al. 2012, CVPR,
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
"""Pairs compared at once: bounds the memory."""
_CROWD = 256
"""Of the rows that share a word only so many are compared with any: bounds the time. Of 14,525 real
cells at most 27 share one."""

_k = np.arange(9)[:, None]
_COSINES = np.cos(np.pi * (2 * np.arange(_SIDE)[None] + 1) * _k / (2 * _SIDE)).astype(np.float32)
_FLIP = (-1.0) ** np.arange(9, dtype=np.float32)

Hashes = NDArray[np.uint64]
Pairs = tuple[NDArray[np.int64], NDArray[np.int64]]


def hashes(image: Image.Image) -> Hashes:
    """(8,) hashes of the picture in its 8 orientations; the first is as it stands.

    Bit 0 of the orientation's number mirrors left and right, bit 1 top and bottom, and bit 2
    then swaps rows and columns.
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
    """(N, S, S, C) pictures in an orientation, as `hashes` numbers them."""
    if orientation & 1:
        thumbnails = thumbnails[:, :, ::-1]
    if orientation & 2:
        thumbnails = thumbnails[:, ::-1]
    return thumbnails.transpose(0, 2, 1, 3) if orientation & 4 else thumbnails


def _signs(spectrum: NDArray[np.float32]) -> np.uint64:
    """Which of the 64 lowest frequencies, without the mean, lie above their median."""
    # The mean's place is taken by the next frequency down the first column.
    values = np.append(spectrum[:8, :8].ravel()[1:], spectrum[8, 0])
    bits = np.packbits(values > np.median(values))
    return np.uint64(int.from_bytes(bits.tobytes(), "big"))


def near_pairs(queries: Hashes, base: Hashes, distance: int) -> Iterator[Pairs]:
    """(i, j) with i < j whose `queries[i]` and `base[j]` differ in at most `distance` <= 7 bits.

    In blocks; a pair may come more than once. All such pairs where no word of 16 bits is shared by
    more than `_CROWD` of `base`, so that time and memory are linear in the rows whatever they are.
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
    """(i, j) beside each other in `base` sorted from any of its 4 words on, of those that differ in
    at most `distance` bits: of a crowd of near hashes, pairs that hold most of it together."""
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
    """Rows and places: row i goes with the `lengths[i]` places from `first[i]` on. In blocks."""
    full = np.flatnonzero(lengths)
    for rows in np.split(full, _cuts(lengths[full])):
        number = lengths[rows]
        before = np.cumsum(number) - number
        left = np.repeat(rows, number)
        yield left, np.arange(len(left)) + np.repeat(first[rows] - before, number)


def _cuts(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where to cut rows so that each run's lengths add up to about `_BLOCK`."""
    total = np.cumsum(lengths)
    end = int(total[-1]) if len(total) else 0
    cuts: NDArray[np.int64] = np.searchsorted(total, np.arange(_BLOCK, end, _BLOCK))
    return cuts
