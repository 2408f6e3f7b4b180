"""`hemofed bench NAME --peer NAME=PYTHON`: frameworks that have environments of their own.

hemofed depends on none of them. PYTHON is the interpreter of a virtual environment with the
framework, made by `PeerFramework.recipe`.
"""

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Self

import torch

import simulations
from common.errors import ConfigError
from simulations.bench.harness import Say, said_by


@dataclass(frozen=True, kw_only=True)
class PeerFramework:
    """A framework, and the contestants that it enters: name -> module and its arguments."""

    title: str
    package: str
    requirement: str
    python: str
    contestants: dict[str, tuple[str, ...]]

    def recipe(self) -> str:
        """The two commands that make its environment, with the torch that hemofed runs on."""
        same_torch = torch.__version__.partition("+")[0]
        return (
            f"{self.python} -m venv DIR && "
            f"DIR/bin/pip install '{self.requirement}' torch=={same_torch} numpy psutil"
        )


_WHAT_IS_THERE = """
import importlib, importlib.metadata, json, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
gil = getattr(sys, "_is_gil_enabled", lambda: True)()
print(json.dumps({"version": importlib.metadata.version(sys.argv[1]), "gil": gil}))
"""


@dataclass(frozen=True)
class Peer:
    """A framework and the interpreter that runs it."""

    framework: PeerFramework
    interpreter: Path

    @classmethod
    def named(cls, text: str, frameworks: Mapping[str, PeerFramework]) -> Self:
        """The peer that `text`, NAME=PYTHON, names; NAME is a key of `frameworks`.

        Raises ConfigError: there is no such name, or it has no interpreter.
        """
        name, equals, interpreter = text.partition("=")
        if name not in frameworks or not equals:
            known = " or ".join(f"{name}=PYTHON" for name in frameworks)
            raise ConfigError(f"--peer {text}: give {known}")
        if not os.access(interpreter, os.X_OK) or not Path(interpreter).is_file():
            raise ConfigError(
                f"--peer {text}: is no interpreter; make its environment with "
                f"`{frameworks[name].recipe()}` and give DIR/bin/python"
            )
        return cls(frameworks[name], Path(interpreter).absolute())

    @cached_property
    def title(self) -> str:
        """The framework with its version.

        Raises ConfigError: the interpreter has not all that it needs.
        """
        found = self._found()
        no_gil = "" if found["gil"] else ", no GIL"
        return f"{self.framework.title} {found['version']}{no_gil}"

    def entries(self, folder: Path, *arguments: str) -> dict[str, Say]:
        """Its contestants by a name with its version, each given `arguments` before its own.

        `folder` is where it finds the code of its contestants, and nothing else.

        Raises ConfigError: the interpreter has not all that it needs.
        """
        environment = os.environ | {"PYTHONPATH": str(_own_code(folder)), "TQDM_DISABLE": "1"}
        return {
            f"{self.title}, {how}": partial(
                said_by,
                module,
                *arguments,
                *own,
                environment=environment,
                interpreter=self.interpreter,
            )
            for how, (module, *own) in self.framework.contestants.items()
        }

    def _found(self) -> dict[str, Any]:
        needed = (self.framework.package, "torch", "numpy", "psutil")
        command = [str(self.interpreter), "-P", "-c", _WHAT_IS_THERE, *needed]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
        if done.returncode:
            last = (done.stderr.strip() or "it said nothing").splitlines()[-1]
            raise ConfigError(
                f"--peer: {self.interpreter} cannot run {self.framework.title} ({last}); make its "
                f"environment with `{self.framework.recipe()}`"
            )
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found


def _own_code(folder: Path) -> Path:
    """A folder with this package alone: a peer must not find what is installed beside it."""
    code = folder / "code"
    code.mkdir(exist_ok=True)
    link = code / "simulations"
    if not link.is_symlink():
        link.symlink_to(Path(simulations.__path__[0]).absolute())
    return code
