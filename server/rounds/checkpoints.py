"""Checkpoints: the state of a run after each round, on disk before the next round starts."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from common.errors import FederationError
from common.files import replacing, write_text
from common.wire.vector_codec import Vector

KEEP = 2
"""Checkpoints that stay on the disk; `save` deletes older ones."""


@dataclass
class State:
    """Everything that the next round depends on."""

    round: int
    """The number of rounds that are done."""
    model: Vector
    """The model's federated parameters, (P,) float32."""
    average: Vector
    """The exponential moving average of the models, (P,) float32; `model` if there is none."""
    moments: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    """The server optimizer's moments by name, each (P,) float64."""
    best: Vector | None = None
    """The averaged model with the best score, (P,) float32; None if no evaluation has a score."""
    best_score: float = -1.0
    """The score of `best`; -1 if there is none."""
    best_round: int = 0
    """The round after which `best` was evaluated."""
    best_noise: float = 0.0
    """The standard deviation of the noise in `best_score`; 0 if it is exact."""
    last_score: float | None = None
    """The score of the last evaluation; None if it has none."""
    last_noise: float = 0.0
    """The standard deviation of the noise in `last_score`; 0 if it is exact."""
    judged: int = 0
    """The number of evaluations that had a score."""
    stale: int = 0
    """The number of evaluations with an exact score since the best one."""
    seconds: float = 0.0
    """The time that the rounds took, without their logging and checkpoints."""
    heads: dict[str, str] = field(default_factory=dict)
    """Site -> the head of its privacy ledger, as its last accepted reply said."""
    offences: dict[str, int] = field(default_factory=dict)
    """Site -> how many of its replies in a row were left out (`server.rounds.suspension`)."""


def save(folder: Path, state: State, digest: str) -> None:
    """Write `folder/round-NNNNNN.safetensors` atomically, and delete all but the last two.

    Args:
        folder: where the run's checkpoints are.
        state: the state after round `state.round`.
        digest: the study's, which `load` compares.
    """
    arrays: dict[str, NDArray[np.generic]] = {"model": state.model, "average": state.average}
    arrays |= {f"moment.{name}": value for name, value in state.moments.items()}
    if state.best is not None:
        arrays["best"] = state.best
    with replacing(_path(folder, state.round)) as temporary:
        save_file(arrays, temporary, metadata={"state": _scalars(state), "study": digest})
    for old in _all(folder)[:-KEEP]:
        old.unlink()


def load(folder: Path, digest: str) -> State | None:
    """Return the newest checkpoint's state, or None if the folder has no checkpoint.

    Files that a killed `save` left behind are deleted.

    Raises:
        FederationError: the checkpoint cannot be read, or belongs to a study other than `digest`.
    """
    for half in folder.glob(".round-*"):
        half.unlink()
    paths = _all(folder)
    if not paths:
        return None
    try:
        with safe_open(paths[-1], framework="numpy") as file:
            metadata = file.metadata()
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise FederationError(
            f"{paths[-1]}: the checkpoint cannot be read ({error}); delete it to go on from the "
            "one before"
        ) from error
    if metadata.get("study") != digest:
        raise FederationError(
            f"{paths[-1]}: belongs to study {metadata.get('study', '?')[:12]}, not {digest[:12]}; "
            "resume with the study it was started with, or choose another folder"
        )
    moments = {name[7:]: array for name, array in arrays.items() if name.startswith("moment.")}
    scalars = json.loads(metadata["state"])
    return State(
        model=arrays["model"],
        average=arrays["average"],
        best=arrays.get("best"),
        moments=moments,
        **scalars,
    )


def begin(folder: Path, number: int) -> int:
    """Write down that round `number` starts, and return the number of its earlier starts.

    A site never answers the same attempt twice, so a round that was cut off needs a new attempt.
    """
    path = folder / "started.json"
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    attempt = before["attempt"] + 1 if before.get("round") == number else 0
    write_text(path, json.dumps({"round": number, "attempt": attempt}))
    return int(attempt)


def _scalars(state: State) -> str:
    arrays = ("model", "average", "moments", "best")
    return json.dumps({name: said for name, said in vars(state).items() if name not in arrays})


def _path(folder: Path, number: int) -> Path:
    return folder / f"round-{number:06d}.safetensors"


def _all(folder: Path) -> list[Path]:
    return sorted(folder.glob("round-*.safetensors"))
