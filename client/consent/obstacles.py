"""Everything that keeps a site from training in a study, reported at once and before any payment.

The person who decides about the study sees all of it; a server that asks whether the site is ready
gets the first reason.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

from client.data.site_cells import open_cells
from client.ledger.cost import StudyCost
from client.ledger.spending import check_affordable
from client.policy.policy import Policy, permit
from client.training.selftest import check_alone
from common.config.study import ModelSpec, Site, Study
from common.device import resolve
from common.errors import HemofedError, PrivacyError
from common.models import build, trainable


def obstacles(site: Site, policy: Policy, study: Study) -> list[HemofedError]:
    """Why the site cannot train, each reason as the error that it would raise; []: it can train.

    Checks the policy, the budget and whose the ledger is, the device, the model's weights, whether
    the noise can be drawn, and the cells and their side. Nothing here depends on what the cells
    show, or on how many take part. The kernels are not tested, since that takes a while
    (`check_ready`).
    """
    cost = StudyCost(study)
    return list(
        _failed(
            lambda: permit(policy, study, cost.noise_multiplier),
            lambda: check_affordable(site, policy, cost),
            lambda: resolve(site.runtime.device),
            lambda: cost.check_drawable(_size(study)),
            lambda: open_cells(site, study),
        )
    )


def check_ready(site: Site, policy: Policy, study: Study) -> None:
    """Raise PrivacyError with the text of all `obstacles` and the reason of the first, if any.

    Also raises it where the machine's kernels fail `check_alone`.
    """
    found = obstacles(site, policy, study)
    if found:
        said = f"study {study.name} cannot train here: {in_words(found)}"
        raise PrivacyError(said, found[0].reason)
    check_alone(site, study)


def in_words(found: Sequence[HemofedError]) -> str:
    """The errors' texts in one line, numbered if several; equal texts appear once.

    >>> in_words([HemofedError("no ledger"), HemofedError("no cells")])
    '(1) no ledger. (2) no cells.'
    """
    said = list(dict.fromkeys(map(str, found)))
    if len(said) == 1:
        return said[0]
    return " ".join(f"({number}) {one}." for number, one in enumerate(said, start=1))


def _failed(*checks: Callable[[], object]) -> Iterator[HemofedError]:
    for check in checks:
        try:
            check()
        except HemofedError as error:
            yield error


def _size(study: Study) -> int:
    """The number of trainable parameters of the study's model."""
    return _size_of(study.model, len(study.cell_types), study.image_side, study.seed)


@lru_cache(maxsize=64)
def _size_of(spec: ModelSpec, classes: int, side: int, seed: int) -> int:
    """Cached, since a study that waits for its labs asks every few seconds."""
    return sum(value.numel() for value in trainable(build(spec, classes, side, seed)).values())
