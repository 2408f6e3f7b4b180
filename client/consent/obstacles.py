"""All that keeps a site from training in a study, told at once and before anything is paid.

A person who approves is told them, and a server that asks whether the site is ready.
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
    """What stands in the way, each as the error that it would be; none: the site can train.

    Asks the policy, the budget and whose the ledger is, the device, the model's weights, whether
    the noise can be drawn, and the cells and their side. None of it depends on what the cells show,
    nor on how many take part. The kernels are not asked: that takes a while (`check_ready`).
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
    """Raise PrivacyError with all `obstacles`, and the first one's reason, where there are any; and
    where the machine's kernels fail `check_alone`."""
    found = obstacles(site, policy, study)
    if found:
        said = f"study {study.name} cannot train here: {in_words(found)}"
        raise PrivacyError(said, found[0].reason)
    check_alone(site, study)


def in_words(found: Sequence[HemofedError]) -> str:
    """Numbered where there are several; what two of them say alike, once."""
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
    """Trainable parameters of the study's model."""
    return _size_of(study.model, len(study.cell_types), study.image_side, study.seed)


@lru_cache(maxsize=64)
def _size_of(spec: ModelSpec, classes: int, side: int, seed: int) -> int:
    """Kept: a study that waits for its labs asks every few seconds."""
    return sum(value.numel() for value in trainable(build(spec, classes, side, seed)).values())
