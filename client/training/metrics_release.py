"""What an evaluation releases from the site: nothing, noised counts, or exact ones."""

from collections.abc import Sequence

import numpy as np

from client.ledger.spending import note_exact_metrics, pay_for_metrics
from client.masking.masked_counts import under_masks
from client.masking.pairs import Pair
from client.randomness import Entropy
from client.request import Request
from client.training.evaluation import predict
from client.training.inputs import Inputs, first_of_each
from client.training.own_figures import note_figures
from common.config.study import Site
from common.errors import PrivacyError
from common.metrics import Counts, Floats, Tally
from common.noised_tally import SENSITIVITY, NoisedTally
from common.privacy.metrics_noise import shared_metrics_sigma
from common.privacy.noise import count_sigma, discrete_gaussian
from common.wire.messages import Task
from common.wire.reasons import Reason


def released_tally(
    request: Request, inputs: Inputs, entropy: Entropy
) -> tuple[Tally | NoisedTally, str]:
    """The counts on the cells of the task's split, and the ledger's head.

    The counts are noised or exact, as the site's policy says. The ledger's head is the one after
    the counts were paid for, or were noted as leaving exact. In both cases a real site keeps the
    exact counts at home (`client.training.own_figures`); a simulation has its summary instead.

    Raises PrivacyError when the policy lets nothing leave, or the ledger refuses.
    """
    site, task, allowed = request.site, request.task, request.policy.metrics
    if allowed == "none":  # at once: the time that it took would tell how many cells
        said = "the site's policy lets no metrics leave (metrics: none)"
        raise PrivacyError(said, Reason.METRICS)
    if allowed == "exact":
        account = note_exact_metrics(request, entropy)
        return _counted_at_home(site, task, inputs, entropy)[0], account.head
    paid = pay_for_metrics(request, entropy)
    sigma = count_sigma(SENSITIVITY * task.study.privacy.cells_of_a_unit, paid.noise_multiplier)
    counts = _noised_counts(request, inputs, sigma, entropy)
    return NoisedTally.of_counts(counts, sigma**2), paid.head


def masked_counts(
    request: Request, inputs: Inputs, pairs: Sequence[Pair], entropy: Entropy
) -> tuple[bytes, str]:
    """The site's counts with its share of the noise, under masks, and the ledger's head.

    The counts are those of `NoisedTally.counts`, as `under_masks` writes them.

    Args:
        request: asks for the counts of a split.
        inputs: the model and the site's cells.
        pairs: one for each site that this one masks with; used for no other vector.
        entropy: draws the noise.

    Raises:
        PrivacyError: the ledger refuses.
    """
    paid = pay_for_metrics(request, entropy)
    sigma = shared_metrics_sigma(request.study)
    counts = _noised_counts(request, inputs, sigma, entropy)
    return under_masks(counts, pairs), paid.head


def _noised_counts(request: Request, inputs: Inputs, sigma: float, entropy: Entropy) -> Counts:
    """The counts of the task's split with noise of `sigma` cells, int64 (K^2 + 2,)."""
    site, task = request.site, request.task
    _, probabilities = _counted_at_home(site, task, inputs, entropy)
    counts = NoisedTally.of(_counted(task, inputs, probabilities, few=True)).counts
    source = entropy.source(task.study.digest, site.name, task.round, task.split, "metrics")
    counts += discrete_gaussian(len(counts), sigma, source)
    return counts


def _counted_at_home(
    site: Site, task: Task, inputs: Inputs, entropy: Entropy
) -> tuple[Tally, Floats]:
    """The tally of every cell of the split, written down at the site, and their probabilities."""
    probabilities = predict(inputs, inputs.cells.rows(task.split))
    tally = _counted(task, inputs, probabilities)
    if not entropy.repeats:
        note_figures(site, task, tally)
    return tally, probabilities


def _counted(task: Task, inputs: Inputs, probabilities: Floats, few: bool = False) -> Tally:
    """The tally of the split's cells; if `few`, of the cells of each patient that may count.

    probabilities: those of all the split's cells, (N, classes).
    """
    positions = inputs.cells.rows(task.split)
    privacy = task.study.privacy
    counts = np.ones(len(positions), bool)
    if few and privacy.unit == "patient":
        counts = first_of_each(inputs.cells.units[positions], privacy.cells_of_a_unit)
    if not counts.any():
        return Tally.empty(len(task.study.cell_types))
    return Tally.of(probabilities[counts], inputs.cells.labels[positions[counts]])
