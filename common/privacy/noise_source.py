"""Random bits for noise: the operating system's entropy through a stream cipher.

The mechanism's proof needs bits that nobody can predict. Torch's and numpy's generators are not
made for that: a few hundred outputs give away their state. AES-256 in counter mode is made for it.
"""

import hashlib
import itertools
import os
from typing import NoReturn

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from common.errors import PrivacyError

WORDS_A_CALL = 1 << 15
"""Words that one call of the cipher makes: 256 KiB, which stay in a core's second-level cache."""

_ZEROS = bytes(8 * WORDS_A_CALL)
_forks = itertools.count(1)
_generation = [0]
os.register_at_fork(after_in_child=lambda: _generation.__setitem__(0, next(_forks)))


class NoiseSource:
    """A keystream read as 64-bit words.

    Formal guarantees: under the assumption that AES-256 is a pseudorandom permutation, the words
    are indistinguishable from uniform ones. No two sources made by `secure` share a key, and a
    process forked while it holds one draws a new key before its first word.

    Threads must not share a source: make one for each thread. A source cannot be copied or pickled,
    since a copy would repeat the stream.
    """

    def __init__(self, key: bytes, *, secure: bool) -> None:
        self._secure = secure
        self._start(key)

    @classmethod
    def secure(cls) -> "NoiseSource":
        """A source keyed afresh from the operating system: the only one that training uses."""
        return cls(os.urandom(32), secure=True)

    @classmethod
    def seeded(cls, key: bytes) -> "NoiseSource":
        """A source that repeats: for tests, and for simulations that must be reproducible.

        It protects nobody: whoever knows `key` can subtract the noise. It is only ever passed as
        an object by `simulations` or a test; no study, site or server file has a field for it.
        Raises PrivacyError for an empty key.
        """
        if not key:
            raise PrivacyError("NoiseSource.seeded: the key is empty; give at least one byte")
        return cls(hashlib.sha256(b"hemofed seeded noise\0" + key).digest(), secure=False)

    def words(self, count: int) -> NDArray[np.uint64]:
        """The next `count` words of the stream, uint64 (count,).

        >>> source = NoiseSource.seeded(b"a test")
        >>> source.words(3).shape, source.words(3).dtype
        ((3,), dtype('uint64'))
        """
        if self._secure and self._owner != (os.getpid(), _generation[0]):
            self._start(os.urandom(32))
        buffer = np.empty(count, dtype=np.uint64)
        for start in range(0, count, WORDS_A_CALL):
            piece = buffer[start : start + WORDS_A_CALL].view(np.uint8)
            self._cipher.update_into(memoryview(_ZEROS)[: piece.size], piece.data)
        return buffer

    def _start(self, key: bytes) -> None:
        # A key is used for one stream only, so the counter may begin at zero.
        self._cipher = Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor()
        self._owner = (os.getpid(), _generation[0])

    def __reduce__(self) -> NoReturn:
        raise TypeError("a NoiseSource cannot be copied or pickled: the copy would repeat it")
