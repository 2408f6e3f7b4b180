"""`hemofed bench audit`: how often the audit notices each of several faults of private training."""

import json
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from common.config.study import PrivacySpec, Study
from common.files import write_text
from simulations.bench import fault_injection as faults
from simulations.host_info import machine
from simulations.privacy_audit.audit import CANARIES, QUICK_CANARIES, Audit, audit
from simulations.privacy_audit.randomness import Randomness

Fault = Callable[[], AbstractContextManager[None]]

ROUNDS = 20
"""The rounds of the study; each has one step."""

FAULTS: dict[str, Fault] = {
    "none": nullcontext,
    **{
        f"noise x {factor:g}": partial(faults.noise_times, factor)
        for factor in (0.97, 0.95, 0.9, 0.8, 0.5, 0.0)
    },
    **{
        f"no noise in the last {ROUNDS - steps} of {ROUNDS} steps": partial(
            faults.no_noise_after, steps
        )
        for steps in (ROUNDS // 2, ROUNDS - 1)
    },
    "the same noise every step": faults.repeated_noise,
    **{
        f"clipping norm x {factor:g}": partial(faults.clipping_times, factor)
        for factor in (1.05, 1.1, 2.0, 1e6)
    },
    **{
        f"sampling rate x {factor:g}": partial(faults.rate_times, factor)
        for factor in (1.1, 1.5, 1e6)
    },
}

MASKED_FAULTS: dict[str, Fault] = {
    "none": nullcontext,
    **{f"{n} of 4 shares missing": partial(faults.shares_missing, n) for n in (1, 2, 3)},
    **{f"shares for {4 + n} labs, 4 there": partial(faults.shares_too_small, n) for n in (1, 2)},
    "the lab's masks known from another sum": faults.masks_repeated,
}
"""In mode distributed: five labs, one of them a colluder."""


def run(quick: bool, json_file: Path | None) -> None:
    """Audit each fault several times; print the results, and write them to `json_file` if given."""
    torch.set_num_threads(1)
    repetitions, canaries = (3, QUICK_CANARIES) if quick else (5, CANARIES)
    results = []
    for epsilon in (1.0, 3.0, 8.0):
        for mode, known in (("local", FAULTS), ("distributed", MASKED_FAULTS)):
            study = _study(epsilon, mode)
            for name, fault in known.items():
                found = [_audit(study, fault, seed, canaries) for seed in range(repetitions)]
                about = {"epsilon": epsilon, "mode": mode, "fault": name}
                results.append(about | _caught(found))
    _print(results, repetitions, canaries)
    if json_file:
        content = {"machine": machine(), "repetitions": repetitions, "canaries": canaries}
        write_text(json_file, json.dumps(content | {"results": results}, indent=2))


def _study(epsilon: float, mode: str) -> Study:
    content = {"mode": mode, "epsilon": epsilon, "sample_rate": 0.25, "local_steps": 1}
    privacy = PrivacySpec.model_validate(content)
    return Study(name="faults", rounds=ROUNDS, privacy=privacy)


def _audit(study: Study, fault: Fault, seed: int, canaries: int) -> Audit:
    bits = Randomness(seed)
    with fault():
        return audit(study, bits.entropy(0), bits.coins(0), canaries)


def _caught(found: list[Audit]) -> dict[str, Any]:
    by_test = Counter(
        test.name
        for each in found
        for test in each.tests
        if test.epsilon_lower > each.epsilon_upper
    )
    return {
        "caught": sum(not each.passed for each in found),
        "by_test": {test.name: by_test[test.name] for test in found[0].tests},
        "epsilon_lower": sorted(each.epsilon_lower for each in found)[len(found) // 2],
    }


def _print(results: list[dict[str, Any]], repetitions: int, canaries: int) -> None:
    names = list(results[0]["by_test"])
    table = Table(
        "claimed", "mode", "fault", f"caught of {repetitions}", "by each bound", "median bound"
    )
    table.title = f"Faults behind the accountant's back, {canaries} canaries"
    table.caption = f"bounds: {'; '.join(names)}"
    for row in results:
        table.add_row(
            f"{row['epsilon']:g}",
            row["mode"],
            row["fault"],
            str(row["caught"]),
            " / ".join(str(row["by_test"][name]) for name in names),
            f"{row['epsilon_lower']:.3g}",
        )
    Console().print(table)
