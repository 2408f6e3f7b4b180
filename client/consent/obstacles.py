"""All that keeps a site from training in a study, told at once and before anything is paid.

A person who approves is told them, and a server that asks whether the site is ready.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

from client.ledger.spending import check_affordable, check_drawable, permit_study
from client.site import open_cells
from client.training.selftest import check_alone
from common.config.study import ModelSpec, Site, Study
from common.device import resolve
from common.errors import HemofedError, PrivacyError
from common.models import build, trainable


def obstacles(site: Site, study: Study) -> list[HemofedError]:
    """What stands in the way, each as the error that it would be; none: the site can train.

    Asks the policy, the budget and whose the ledger is, the device, the model's weights, whether
    the noise can be drawn, and the cells and their side. None of it depends on what the cells show,
    nor on how many take part. The kernels are not asked: that takes a while (`check_ready`).
    """
    return list(_failed(site, study, permit_study, check_affordable, _device, _model, open_cells))


def check_ready(site: Site, study: Study) -> None:
    """Raise PrivacyError with all `obstacles`, and the first one's reason, where there are any; and
    where the machine's kernels fail `check_alone`."""
    found = obstacles(site, study)
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


def _failed(
    site: Site, study: Study, *checks: Callable[[Site, Study], object]
) -> Iterator[HemofedError]:
    for check in checks:
        try:
            check(site, study)
        except HemofedError as error:
            yield error


def _device(site: Site, study: Study) -> None:
    resolve(site.runtime.device)


def _model(site: Site, study: Study) -> None:
    size = _size(study.model, len(study.cell_types), study.image_side, study.seed)
    check_drawable(study, size)


@lru_cache(maxsize=64)
def _size(spec: ModelSpec, classes: int, side: int, seed: int) -> int:
    """Trainable parameters. Kept: a study that waits for its labs asks every few seconds."""
    return sum(value.numel() for value in trainable(build(spec, classes, side, seed)).values())
