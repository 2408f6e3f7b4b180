"""What leaves a site of its training cells before the first round: cells by type, mean colour.

It leaves once, with the site's share of the noise and under masks. The numbers and their
sensitivity are in `common.privacy.statistics_noise`.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from client.data.site_cells import Rows, SiteCells
from client.ledger.spending import pay_for_statistics
from client.masking.masked_counts import under_masks
from client.masking.pairs import Pair
from client.randomness import Entropy
from client.request import Request
from client.training.inputs import first_of_each
from common.config.study import Study
from common.errors import FederationError
from common.metrics import Counts
from common.privacy.noise import discrete_gaussian
from common.privacy.statistics_noise import COLOUR, COLOURS, COUNT, statistics_sigma
from common.wire.reasons import Reason

_PIECE = 256
"""Pictures that are read at a time."""


def check_asked(request: Request) -> None:
    """Check that the study asks for statistics, and that this is their time.

    Raises:
        FederationError: it does not ask for them, or a round has begun (BAD_QUESTION).
    """
    study, number = request.study, request.task.round
    if study.privacy.statistics_epsilon is None:
        said = f"study {study.name}: asks for no statistics (privacy.statistics_epsilon)"
        raise FederationError(said, Reason.BAD_QUESTION)
    if number != 0:
        said = f"study {study.name}, round {number}: statistics are given before the first round"
        raise FederationError(said, Reason.BAD_QUESTION)


def masked_statistics(
    request: Request, cells: SiteCells, pairs: Sequence[Pair], entropy: Entropy
) -> tuple[bytes, str]:
    """The statistics with the site's share of the noise, under masks, and the ledger's head.

    Args:
        request: asks for the statistics.
        cells: the site's cells.
        pairs: one for each site that this one masks with; used for no other vector.
        entropy: draws the noise.

    Raises:
        PrivacyError: the ledger refuses.
    """
    study = request.study
    paid = pay_for_statistics(request, entropy)
    numbers = statistics(cells, study)
    source = entropy.source(study.digest, request.site.name, "statistics")
    numbers += discrete_gaussian(len(numbers), statistics_sigma(study), source)
    return under_masks(numbers, pairs), paid.head


def statistics(cells: SiteCells, study: Study) -> Counts:
    """The exact statistics of the training cells, int64 (K + 3,): cells by type, then the colours.

    Of a unit at most `cells_of_a_unit` cells count. The pictures are read a few at a time.
    """
    rows = cells.rows("train")
    if study.privacy.unit == "patient":
        rows = rows[first_of_each(cells.units[rows], study.privacy.cells_of_a_unit)]
    types = COUNT * np.bincount(cells.labels[rows], minlength=len(study.cell_types))
    return np.concatenate([types, _colours(cells, rows)])


def _colours(cells: SiteCells, rows: Rows) -> Counts:
    """The sum of `colour_numbers` over the cells at `rows`, int64 (3,)."""
    total = np.zeros(len(COLOURS), np.int64)
    for start in range(0, len(rows), _PIECE):
        total += colour_numbers(cells.take(rows[start : start + _PIECE])).sum(0)
    return total


def colour_numbers(pictures: NDArray[np.uint8]) -> Counts:
    """What each of the pictures (N, S, S, 3) adds to the numbers of the colours, int64 (N, 3).

    It is between -COLOUR, a black picture's, and COLOUR, a white one's.

    >>> colour_numbers(np.full((1, 2, 2, 3), (0, 255, 51), np.uint8))
    array([[-256,  256, -154]])
    """
    sums = pictures.sum((1, 2), dtype=np.int64)
    brightest = 255 * pictures.shape[1] * pictures.shape[2]
    numbers: Counts = np.rint(COLOUR * (2 * sums / brightest - 1)).astype(np.int64)
    return numbers
