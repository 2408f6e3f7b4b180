"""The statistics of the training cells as whole numbers, and the noise in their sum over sites.

For K cell types a site's statistics are K + 3 whole numbers. A cell adds

    COUNT                      to the number of its type, and
    round(COLOUR (2 c - 1))    to the number of each colour, c in [0, 1] its mean in the picture.

So the sum of a type's numbers is COUNT times its cells, and a colour's mean over n cells is
(1 + sum / (COLOUR n)) / 2. The numbers are the grid: nothing is rounded once they are added up.

Formal guarantees: one unit of at most m cells (`PrivacySpec.cells_of_a_unit`) changes the numbers
by at most m * SENSITIVITY in L2, whatever its pictures show.
    A cell adds COUNT to exactly one number of a type. Rounding does not leave [-COLOUR, COLOUR],
    whose ends are whole. So a cell's vector has a norm of at most sqrt(COUNT^2 + 3 COLOUR^2), which
    a white or a black picture attains. The unit's cells are chosen without regard to other units,
    so they are what is added or removed, and the norm of their sum is at most the sum of norms.
Each site adds its share of one discrete Gaussian; `common.privacy.noise` has the proof for shares.

With noise of multiplier z on the sum, a type's number of cells has a standard deviation of
z m SENSITIVITY / COUNT = 1.09 z m cells, and a colour's mean over n cells 2.18 z m / n. A colour
weighs a quarter of a count: it makes the counts 9 % less precise, and a mean over a thousand cells
is known to 1/255 all the same where z m is 1.8. A mean for each type would cost no more noise, but
be that of a rare type's few cells, and a mean over all types then bear the noise of K sums.
"""

import math

from common.config.distributed import noise_shares
from common.config.study import PrivacySpec, Study
from common.errors import PrivacyError
from common.privacy.accounting import Event, calibrate
from common.privacy.discrete_gaussian import MAX_SIGMA
from common.privacy.noise import share_count_sigma

COUNT = 2**10
"""What a cell adds to the number of its type."""
COLOUR = 2**8
"""The most, in size, that a cell adds to the number of a colour."""
COLOURS = ("red", "green", "blue")
SENSITIVITY = math.sqrt(COUNT**2 + len(COLOURS) * COLOUR**2)
"""The largest L2 norm of what one cell adds."""


def statistics_event(privacy: PrivacySpec) -> Event | None:
    """The event of the statistics, with the noise that is left against the planned colluders.

    None where the study asks for no statistics. Raises PrivacyError when no noise gives their
    epsilon.
    """
    if privacy.statistics_epsilon is None:
        return None
    try:
        noise = calibrate(privacy.statistics_epsilon, privacy.delta, 1.0, 1)
    except PrivacyError as error:
        raise PrivacyError(f"privacy.statistics_epsilon: {error}") from error
    return Event(
        mechanism="poisson_discrete_gaussian",
        sample_rate=1.0,
        noise_multiplier=noise,
        steps=1,
        unit=privacy.unit,
        mode="distributed",
    )


def statistics_sigma(study: Study) -> float:
    """Standard deviation of a site's share of the noise in each number, in the numbers' unit.

    Raises PrivacyError when the study asks for no statistics, or for more noise than can be drawn.
    """
    event = statistics_event(study.privacy)
    if event is None:
        raise PrivacyError(f"study {study.name}: privacy.statistics_epsilon is not set")
    sensitivity = SENSITIVITY * study.privacy.cells_of_a_unit
    sigma = share_count_sigma(sensitivity, event.noise_multiplier, noise_shares(study))
    if sigma > MAX_SIGMA:
        raise PrivacyError(
            f"privacy.statistics_epsilon={study.privacy.statistics_epsilon:g}: its noise comes to "
            f"{sigma / COUNT:.3g} cells a site, and at most {MAX_SIGMA / COUNT:.3g} can be drawn; "
            "give a larger one, or a smaller privacy.max_cells_per_patient"
        )
    return sigma
