"""The rounds of a rogue server: while HOME/swap is there, it swaps a masking key on its way."""

import os
import sys
from dataclasses import replace
from pathlib import Path

from flwr.app import Array, RecordDict

from common.wire.agreement import MaskingKey
from common.wire.messages import Task
from server.studies.runner import main

_content = Task.content


def _swapped(task: Task, model: Array | None = None) -> RecordDict:
    agreement = task.agreement
    if agreement and agreement.keys and (Path(sys.argv[1]) / "swap").exists():
        other = MaskingKey(os.urandom(32), agreement.keys[agreement.sites[1]].signature)
        keys = dict(agreement.keys) | {agreement.sites[1]: other}
        task = replace(task, agreement=replace(agreement, keys=keys))
    return _content(task, model)


if __name__ == "__main__":
    Task.content = _swapped  # type: ignore[method-assign]
    main()
