"""The description of a run: the config's words, unless the command's options made them untrue.

It is kept beside the study and not in it, because the study's digest decides what is drawn at
random, and a run must give the same numbers no matter how its values were given.
"""

from pathlib import Path

from common.config.study import Study
from common.files import write_text
from simulations.config import Simulation

_FILE = "description.txt"


def describe(simulation: Simulation, written_for: str, settings: list[str]) -> str:
    """Describe the simulation that the command's options made of a file.

    Args:
        simulation: the file's content with the options applied.
        written_for: the file's data.source. If the cells are from another source, the file's
            description does not apply.
        settings: the `--set` assignments. The description names them, except those of runtime,
            which do not change the numbers.
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
    """Write the description of a run that starts in `folder`; a continued run keeps its own."""
    if not (folder / "config.yaml").exists():
        write_text(folder / _FILE, text)


def read_description(folder: Path, study: Study) -> str:
    """Return the run's description, or the study's own if none was written."""
    path = folder / _FILE
    return path.read_text(encoding="utf-8") if path.exists() else study.description
