import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from common.errors import FederationError
from server.rounds.checkpoints import State, begin, load, save

LOOP = """
import sys
from pathlib import Path
import numpy as np
from server.rounds.checkpoints import State, save
for number in range(1, 100000):
    model = np.full(50000, number, np.float32)
    save(Path(sys.argv[1]), State(round=number, model=model, average=model), "digest")
    print(number, flush=True)
"""


def state(number: int) -> State:
    draws = np.random.default_rng(number)
    return State(
        round=number,
        model=draws.standard_normal(7).astype(np.float32),
        average=draws.standard_normal(7).astype(np.float32),
        moments={"m": draws.standard_normal(7), "v": draws.random(7)},
        best=draws.standard_normal(7).astype(np.float32),
        best_score=0.5,
        best_round=number,
        stale=1,
        seconds=2.5,
        heads={"a": "ab12"},
        offences={"b": 2},
    )


def test_a_state_comes_back_whole(tmp_path: Path) -> None:
    before = state(3)
    save(tmp_path, before, "digest")
    after = load(tmp_path, "digest")
    assert after
    for name, value in vars(before).items():
        found = getattr(after, name)
        if name == "moments":
            assert all((found[key] == value[key]).all() for key in value)
            assert found.keys() == value.keys()
        else:
            assert np.array_equal(found, value), name


def test_the_last_ones_are_kept_and_the_newest_is_loaded(tmp_path: Path) -> None:
    for number in range(1, 6):
        save(tmp_path, state(number), "digest")
    names = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    assert names == ["round-000004.safetensors", "round-000005.safetensors"]
    for number in (5, 4):
        found = load(tmp_path, "digest")
        assert found
        assert found.round == number
        (tmp_path / f"round-{number:06d}.safetensors").unlink()


def test_a_run_begins_with_nothing_done_and_no_score_yet(tmp_path: Path) -> None:
    model = np.zeros(3, np.float32)
    begun = State(round=0, model=model, average=model)
    assert begun.best is None and begun.best_score < 0, "any score is better"
    assert (begun.best_round, begun.stale, begun.seconds, begun.judged) == (0, 0, 0, 0)
    assert begun.best_noise == begun.last_noise == 0, "none"
    assert begun.moments == begun.heads == begun.offences == {}
    save(tmp_path, begun, "digest")
    found = load(tmp_path, "digest")
    assert found and found.best is None and found.moments == {}


def test_no_checkpoint_is_no_error(tmp_path: Path) -> None:
    assert load(tmp_path, "digest") is None


def test_another_studys_checkpoint_is_refused(tmp_path: Path) -> None:
    for number in (1, 2):
        save(tmp_path, state(number), "0123456789abcdef")
    said = "round-000002.safetensors: belongs to study 0123456789ab, not fedcba987654;"
    with pytest.raises(FederationError, match=said):
        load(tmp_path, "fedcba9876543210")


def test_a_truncated_checkpoint_is_refused(tmp_path: Path) -> None:
    for number in (1, 2):
        save(tmp_path, state(number), "digest")
    path = tmp_path / "round-000002.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(FederationError, match=f"{path}: the checkpoint cannot be read .*delete it"):
        load(tmp_path, "digest")
    path.unlink()
    found = load(tmp_path, "digest")
    assert found and found.round == 1


def test_a_round_that_starts_again_is_a_new_attempt(tmp_path: Path) -> None:
    assert [begin(tmp_path, 1), begin(tmp_path, 1), begin(tmp_path, 2)] == [0, 1, 0]


def test_a_killed_writer_leaves_the_last_round_that_it_reported_or_the_next(
    tmp_path: Path,
) -> None:
    command = [sys.executable, "-c", LOOP, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout
        for _ in range(20):
            said = int(writer.stdout.readline())
        os.kill(writer.pid, signal.SIGKILL)
        rest = [int(line) for line in writer.stdout.read().split()]
    said = max([said, *rest])
    found = load(tmp_path, "digest")
    assert found
    assert found.round in (said, said + 1)
    assert (found.model == found.round).all()


def test_what_a_killed_writer_left_half_written_does_not_stay(tmp_path: Path) -> None:
    save(tmp_path, state(1), "digest")
    (tmp_path / ".round-000002.safetensors.0123456789ab").write_bytes(b"half")
    assert load(tmp_path, "digest")
    assert [path.name for path in tmp_path.iterdir()] == ["round-000001.safetensors"]
