"""`hemofed bench scores`: how good noised evaluations are, for models whose accuracy is known.

Each study is random: the confusions of a model, the cells of its sites, and the noise for
`evaluation.epsilon`. The intervals of `common.noised_tally` are compared with two that use only the
confusion matrix, at the same epsilon. One sets negative counts to zero, as is often done with
noised histograms; the other takes the same ratio as hemofed. The last way is that of mode
distributed: the sites share one noise, which suffices against one of them.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from common.files import write_text
from common.metrics import Counts, Tally
from common.noised_tally import SENSITIVITY, TELLING, NoisedShare, NoisedTally, total
from common.privacy.accounting import calibrate
from common.privacy.discrete_gaussian import discrete_gaussian
from common.privacy.noise import count_sigma, share_count_sigma
from common.privacy.noise_source import NoiseSource
from simulations.host_info import machine

STUDIES, QUICK = 1000, 100
WAYS = ("matrix, cut off at 0", "matrix", "right, wrong, matrix", "with one noise")
_RESAMPLES = 200

Joint = NDArray[np.float64]


@dataclass(frozen=True)
class Setting:
    """The distribution of the random studies."""

    cells: int
    """Validation cells of all sites together."""
    epsilon: float
    """The epsilon of all evaluations together."""
    evaluations: int
    skew: float = 1.0
    """The k-th most frequent type has a share in proportion to k^-skew."""
    classes: int = 8
    accuracy: float = 0.83
    """The mean recall of a type."""
    sites: int = 3


SETTINGS = (
    Setting(cells=249, epsilon=1, evaluations=31),
    Setting(cells=249, epsilon=1, evaluations=4),
    Setting(cells=249, epsilon=3, evaluations=2),
    Setting(cells=2500, epsilon=1, evaluations=4),
    Setting(cells=2500, epsilon=3, evaluations=4, skew=0.0),
    Setting(cells=4000, epsilon=2, evaluations=4, classes=18),
    Setting(cells=2500, epsilon=1, evaluations=4, sites=7),
    Setting(cells=2500, epsilon=1, evaluations=4, sites=30),
)


@dataclass(frozen=True)
class Telling:
    """How good one way to estimate the accuracy is over all studies of a setting."""

    setting: Setting
    way: str
    covered: float
    """The share of the studies whose interval holds the true accuracy, or that have no interval."""
    told: float
    """The share of the studies that have an interval."""
    width: float | None
    """The median width of the intervals; None: there are none."""
    off: float | None
    """The median of the estimates minus the true accuracy; None: there are no estimates."""


class Said(NamedTuple):
    """The true accuracy in one study, its estimate, and the interval."""

    truth: float
    value: float
    low: float
    high: float


def run(quick: bool, json_file: Path | None) -> None:
    """Draw the studies, and print how often each interval holds the true accuracy.

    The results are also written to `json_file`, if given. `quick` draws fewer studies.
    """
    seen = [found for one in SETTINGS for found in look(one, QUICK if quick else STUDIES)]
    for setting, found in groupby(seen, key=lambda one: one.setting):
        _print(setting, found)
    if json_file:
        rows = [asdict(found) for found in seen]
        write_text(json_file, json.dumps({"machine": machine(), "seen": rows}))


def _print(setting: Setting, found: Iterable[Telling]) -> None:
    title = (
        f"{setting.cells} cells of {setting.sites} sites and {setting.classes} types, "
        f"epsilon {setting.epsilon:g} for {setting.evaluations} evaluations"
    )
    table = Table("told from", "holds", "told", "width", "off by", title=title)
    for one in found:
        shares = f"{one.covered:.1%}", f"{one.told:.0%}"
        table.add_row(one.way, *shares, _points(one.width), _points(one.off))
    Console().print(table)


def look(setting: Setting, studies: int) -> list[Telling]:
    """Return how good each way is on the same random studies."""
    rng, source = np.random.default_rng(1), NoiseSource.seeded(bytes(32))
    noise = calibrate(setting.epsilon, 1e-5, 1.0, setting.evaluations)
    found: dict[str, list[Said]] = {}
    for _ in range(studies):
        joint = _model(rng, setting)
        truth, matrices = float(joint.trace()), _cells(rng, setting, joint)
        for way, (value, interval) in _ways(matrices, noise, source).items():
            if value is not None and interval:
                found.setdefault(way, []).append(Said(truth, value, *interval))
    return [_seen(setting, way, found.get(way, []), studies) for way in WAYS]


def _seen(setting: Setting, way: str, told: list[Said], studies: int) -> Telling:
    missed = sum(not said.low <= said.truth <= said.high for said in told)
    return Telling(
        setting,
        way,
        1 - missed / studies,
        len(told) / studies,
        float(np.median([said.high - said.low for said in told])) if told else None,
        float(np.median([said.value - said.truth for said in told])) if told else None,
    )


def _model(rng: np.random.Generator, setting: Setting) -> Joint:
    """Return (types, types) the probability of each (true, predicted)."""
    prior = np.arange(1.0, setting.classes + 1) ** -setting.skew
    recall = np.clip(setting.accuracy + rng.normal(0, 0.1, setting.classes), 0.02, 0.99)
    joint = rng.dirichlet(np.ones(setting.classes), setting.classes)
    np.fill_diagonal(joint, 0)
    joint *= ((1 - recall) / joint.sum(1))[:, None]
    np.fill_diagonal(joint, recall)
    return np.asarray(joint * (prior / prior.sum())[:, None])


def _cells(rng: np.random.Generator, setting: Setting, joint: Joint) -> list[Counts]:
    """Return each site's confusion counts (types, types)."""
    shares = rng.multinomial(setting.cells, np.full(setting.sites, 1 / setting.sites))
    return [rng.multinomial(n, joint.reshape(-1)).reshape(joint.shape) for n in shares]


def _ways(
    matrices: list[Counts], noise: float, source: NoiseSource
) -> dict[str, tuple[float | None, list[float] | None]]:
    """Return the estimate and the interval of the accuracy by each way."""
    classes = len(matrices[0])
    alone = count_sigma(1.0, noise)
    drawn = [m + discrete_gaussian(m.size, alone, source).reshape(m.shape) for m in matrices]
    cut = Tally.empty(classes)
    cut.counts[:, :, 0] = sum(np.maximum(matrix, 0) for matrix in drawn)
    said = (
        (cut.metrics()["accuracy"], cut.intervals(_RESAMPLES)["accuracy"]),
        _of_matrix(np.asarray(sum(drawn)), len(matrices) * alone**2),
        _ours(matrices, count_sigma(SENSITIVITY, noise), source),
        _ours(matrices, share_count_sigma(SENSITIVITY, noise, len(matrices) - 1), source),
    )
    return dict(zip(WAYS, said, strict=True))


def _of_matrix(matrix: Counts, variance: float) -> tuple[float | None, list[float] | None]:
    classes, right = len(matrix), float(matrix.trace())
    spread = classes * variance, (classes**2 - classes) * variance
    share = NoisedShare(right, float(matrix.sum()) - right, *spread)
    if not share.known or np.diff(share.interval())[0] > TELLING:
        return None, None
    return share.value, list(share.interval())


def _ours(
    matrices: list[Counts], sigma: float, source: NoiseSource
) -> tuple[float | None, list[float] | None]:
    tallies = [_noised(matrix, sigma, source) for matrix in matrices]
    pooled = total(tallies, len(matrices[0]))
    return pooled.metrics()["accuracy"], pooled.intervals()["accuracy"]


def _noised(matrix: Counts, sigma: float, source: NoiseSource) -> NoisedTally:
    right = int(matrix.trace())
    counts = np.array([right, matrix.sum() - right, *matrix.reshape(-1)], np.int64)
    return NoisedTally.of_counts(counts + discrete_gaussian(len(counts), sigma, source), sigma**2)


def _points(share: float | None) -> Any:
    return "" if share is None else f"{100 * share:.1f}"
