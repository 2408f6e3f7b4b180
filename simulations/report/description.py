"""How a run is described: the config's words, unless the command's options made them untrue.

It is kept beside the study and not in it: a study's digest decides what is drawn at random, and a
run must come to the same numbers whichever way its values were given.
"""

from pathlib import Path

from common.config.study import Study
from common.files import write_text
from simulations.config import Simulation

_FILE = "description.txt"


def describe(simulation: Simulation, written_for: str, settings: list[str]) -> str:
    """What holds of the simulation that a file's content became by the options.

    written_for: the file's data.source; of cells from another one its description says nothing.
    settings: the `--set` assignments, which the reader is told; those of runtime change nothing.
    """
    keys = [setting.partition("=")[0] for setting in settings]
    if "study.description" in keys:
        return simulation.study.description
    parts = [simulation.study.description]
    if simulation.data.source != written_for:
        parts = [f"The cells are {simulation.data.source}, not {written_for} as in the file."]
    told = [
        f"--set {setting}"
        for setting, key in zip(settings, keys, strict=True)
        if key.partition(".")[0] != "runtime"
    ]
    if told:
        parts.append(f"Changed by {', '.join(told)}.")
    return " ".join(filter(None, parts))


def write_description(folder: Path, text: str) -> None:
    """Keep the description of the run that begins in `folder`; one that is there is left."""
    if not (folder / "config.yaml").exists():
        write_text(folder / _FILE, text)


def read_description(folder: Path, study: Study) -> str:
    """The run's description; the study's own where no command wrote one."""
    path = folder / _FILE
    return path.read_text(encoding="utf-8") if path.exists() else study.description
