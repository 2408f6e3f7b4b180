"""What an attempt that lost a site costs in privacy: one more debit for each site that answered."""

from dataclasses import replace
from typing import Any

from rich.console import Console
from rich.table import Table

from common.config.study import PrivacySpec
from common.privacy.accounting import epsilon, study_event

ROUNDS, SPARE = 80, (1, 2, 8, 16)
"""The rounds of `quickstart`, and how many attempts more."""
_PRIVACY = PrivacySpec(
    mode="distributed", epsilon=8, delta=1e-5, sample_rate=0.25, local_steps=1, max_grad_norm=1.0
)


def debits() -> dict[str, Any]:
    """Print and return, for attempts more than `quickstart` has rounds, what they come to.

    That is epsilon at the noise of the plan without them, and the noise that holds the plan's
    epsilon with them, as a multiple of the one without.
    """
    plan = study_event(_PRIVACY, ROUNDS)
    rows = {}
    for more in SPARE:
        spared = study_event(_PRIVACY.model_copy(update={"spare_rounds": more}), ROUNDS)
        rows[more] = {
            "epsilon at the same noise": epsilon(
                [replace(plan, steps=plan.steps + more)], _PRIVACY.delta
            ),
            "noise at the same epsilon": spared.noise_multiplier / plan.noise_multiplier,
        }
    table = Table("attempts more", *rows[SPARE[0]], title=f"{ROUNDS} rounds at epsilon 8")
    for more, figures in rows.items():
        table.add_row(str(more), *(f"{value:.4g}" for value in figures.values()))
    Console().print(table)
    return {"title": "debits", "attempts more": rows}
