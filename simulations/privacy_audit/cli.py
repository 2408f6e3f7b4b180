"""The command `hemofed privacy audit`."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from common.files import write_text

REFUTED = 7
"""Exit code when the attack refutes the accountant; `common.errors` uses those below."""


def audit_command(
    study: Annotated[
        str,
        typer.Argument(help="YAML of a study or simulation, or a name in configs/simulations."),
    ],
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="key=value of the study, like privacy.epsilon=3; variant=NAME; repeatable.",
        ),
    ] = None,
    quick: Annotated[bool, typer.Option(help="Fewer canaries and shadow models.")] = False,
    membership: Annotated[
        bool, typer.Option(help="Also infer the membership of pictures with shadow models.")
    ] = True,
    confidence: Annotated[
        float, typer.Option(min=0.5, max=0.9999, help="Confidence of all lower bounds together.")
    ] = 0.95,
    seed: Annotated[
        int | None, typer.Option(help="Seed, to repeat an audit. Default: the system's entropy.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write JSON.")] = None,
) -> None:
    """Attack the training code, and compare what leaks with what the accountant claims.

    The exit code is 7 if more leaks than is claimed.
    """
    import torch

    from common.config.loading import find, read_study
    from simulations.privacy_audit import audit, report
    from simulations.privacy_audit import membership_inference as shadows
    from simulations.privacy_audit.randomness import Randomness

    torch.set_num_threads(1)
    asked = read_study(find(study, "simulations"), settings or [])
    bits, console = Randomness(seed), Console()
    with Console(stderr=True).status("attacking with canaries (half a minute)"):
        canaries = audit.QUICK_CANARIES if quick else audit.CANARIES
        found = audit.audit(asked, bits.entropy(0), bits.coins(0), canaries, confidence)
    report.print_audit(found, console)
    content = found.as_dict()
    if membership:
        size = shadows.QUICK if quick else shadows.FULL
        with Console(stderr=True).status("training shadow models"):
            inferred = shadows.infer(asked, lambda n: bits.entropy(1 + n), bits.coins(1), size)
        report.print_membership(inferred, console)
        content["membership"] = asdict(inferred)
    report.print_verdict(found, console)
    if json_file is not None:
        write_text(json_file, json.dumps(content, indent=2))
    if not found.passed:
        raise typer.Exit(REFUTED)
