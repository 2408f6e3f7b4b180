"""The keystream: uniform, never the same twice in production, forked or not."""

import copy
import pickle
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from common.errors import PrivacyError
from common.privacy.noise_source import WORDS_A_CALL, NoiseSource

_FORKING = """
import os, sys
from common.privacy.noise_source import NoiseSource

os.getpid = lambda: 1  # As if the system gave each child the number of a process that ended.
source = NoiseSource.seeded(b"key") if sys.argv[1:] == ["seeded"] else NoiseSource.secure()
source.words(3)
pipes = []
for _ in range(4):
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.write(writer, source.words(4).tobytes())
        os._exit(0)
    pipes.append(reader)
    os.wait()
print(source.words(4).tobytes().hex())
for reader in pipes:
    print(os.read(reader, 32).hex())
"""


@given(parts=st.lists(st.integers(0, 2 * WORDS_A_CALL), min_size=1, max_size=4))
@settings(max_examples=10)
def test_the_stream_does_not_depend_on_how_it_is_cut(parts: list[int]) -> None:
    whole = NoiseSource.seeded(b"key").words(sum(parts))
    source = NoiseSource.seeded(b"key")
    assert np.array_equal(np.concatenate([source.words(part) for part in parts]), whole)


def test_a_seed_repeats_and_another_seed_does_not() -> None:
    one, same, other = (NoiseSource.seeded(key).words(8) for key in (b"a", b"a", b"b"))
    assert np.array_equal(one, same)
    assert not np.any(one == other)


def test_secure_sources_never_repeat() -> None:
    words = np.stack([NoiseSource.secure().words(100) for _ in range(50)])
    assert len(np.unique(words)) == words.size


def streams_of_forks(*options: str) -> list[str]:
    """What a source gives after four forks: to the parent, then to each child."""
    done = subprocess.run(
        [sys.executable, "-c", _FORKING, *options],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    streams = done.stdout.split()
    assert len(streams) == 5 and all(len(stream) == 64 for stream in streams)
    return streams


def test_a_forked_source_draws_a_key_of_its_own() -> None:
    assert len(set(streams_of_forks())) == 5


def test_a_forked_source_that_repeats_goes_on_repeating() -> None:
    expected = NoiseSource.seeded(b"key").words(7)[3:].tobytes().hex()
    assert set(streams_of_forks("seeded")) == {expected}


def test_bits_are_uniform() -> None:
    words = NoiseSource.seeded(b"uniform").words(200_000)
    counts = np.bincount(words.view(np.uint8), minlength=256)
    assert stats.chisquare(counts).pvalue > 1e-6
    ones = np.unpackbits(words.view(np.uint8)).reshape(-1, 64).mean(axis=0)
    assert np.abs(ones - 0.5).max() < 6 * 0.5 / np.sqrt(len(words))


@pytest.mark.parametrize("source", [NoiseSource.secure(), NoiseSource.seeded(b"key")])
def test_a_source_cannot_be_copied(source: NoiseSource) -> None:
    for duplicate in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="repeat"):
            duplicate(source)


def test_a_seeded_source_needs_a_key() -> None:
    with pytest.raises(PrivacyError, match="key is empty"):
        NoiseSource.seeded(b"")


def test_no_setting_can_name_a_seeded_source() -> None:
    """No field of any YAML model is of the type, or has a name that could carry a key."""
    from pydantic import BaseModel

    from common.config import study

    models = [
        kind
        for kind in vars(study).values()
        if isinstance(kind, type) and issubclass(kind, BaseModel)
    ]
    for kind in models:
        for name, field in kind.model_fields.items():
            assert NoiseSource not in (field.annotation, *getattr(field.annotation, "__args__", ()))
            assert not any(word in name for word in ("noise", "entropy", "key"))
