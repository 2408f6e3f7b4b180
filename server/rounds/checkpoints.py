"""The state of a run after each round, on disk before the next one starts."""

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


@dataclass
class State:
    """Everything the next round depends on."""

    round: int
    """Rounds done."""
    model: Vector
    average: Vector
    """The exponential moving average; equal to `model` without one."""
    moments: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    best: Vector | None = None
    best_score: float = -1.0
    best_round: int = 0
    best_noise: float = 0.0
    """Standard deviation of the noise in the best score; 0: none."""
    last_score: float | None = None
    last_noise: float = 0.0
    judged: int = 0
    """Evaluations that had a score."""
    stale: int = 0
    """Evaluations since the best one."""
    seconds: float = 0.0
    heads: dict[str, str] = field(default_factory=dict)
    """Site -> the head of its privacy ledger, as its last accepted reply said."""
    offences: dict[str, int] = field(default_factory=dict)
    """Site -> its replies left out in a row (`server.rounds.suspension`)."""


def save(folder: Path, state: State, digest: str) -> None:
    """Write `folder/round-NNNNNN.safetensors` atomically; keep the last two."""
    arrays: dict[str, NDArray[np.generic]] = {"model": state.model, "average": state.average}
    arrays |= {f"moment.{name}": value for name, value in state.moments.items()}
    if state.best is not None:
        arrays["best"] = state.best
    with replacing(_path(folder, state.round)) as temporary:
        save_file(arrays, temporary, metadata={"state": _scalars(state), "study": digest})
    for old in _all(folder)[:-KEEP]:
        old.unlink()


def load(folder: Path, digest: str) -> State | None:
    """The newest checkpoint, or None when there is none; what a killed `save` left is removed.

    Raises FederationError when it is unreadable or belongs to another study.
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
    """Note that round `number` starts; how often it was started before (0: never).

    A site never answers one attempt twice, so a round that was cut off is a new attempt.
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
