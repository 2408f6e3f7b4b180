"""What leaves the site of an evaluation: nothing, noised counts, or exact ones."""

import numpy as np

from client.account import note_exact_metrics, pay_for_metrics
from client.batches import Inputs
from client.entropy import Entropy
from client.evaluation import predict
from client.policy import read_policy
from client.site import Rows
from common.config import Site
from common.errors import PrivacyError
from common.metrics import Tally
from common.privacy.noise import count_sigma, discrete_gaussian
from common.protocol import Task
from common.reasons import Reason


def released_tally(site: Site, task: Task, inputs: Inputs, entropy: Entropy) -> tuple[Tally, str]:
    """The counts on the cells of `task.split`, as the site's policy lets them leave, and the head
    of the ledger when they were paid for, or written down as leaving exact.

    Raises PrivacyError when the policy lets nothing leave, or the ledger refuses.
    """
    policy = read_policy(site.policy)
    positions, classes = inputs.cells.rows(task.split), len(task.study.cell_types)
    if policy.metrics == "none":
        said = "the site's policy lets no metrics leave (metrics: none)"
        raise PrivacyError(said, Reason.METRICS)
    if policy.metrics == "exact":
        account = note_exact_metrics(site, task, policy, entropy)
        return _counted(inputs, positions, classes), account.head
    most = task.study.privacy.cells_of_a_unit
    if task.study.privacy.unit == "patient":
        positions = _few_a_patient(positions, inputs.cells.units[positions], most)
    paid = pay_for_metrics(site, task, policy, entropy)
    source = entropy.source(task.study.digest, site.name, task.round, task.split, "metrics")
    confusion = _counted(inputs, positions, classes).confusion
    sigma = count_sigma(most, paid.noise_multiplier)
    noise = discrete_gaussian(confusion.size, sigma, source).reshape(confusion.shape)
    return Tally.of_confusion(np.maximum(confusion + noise, 0)), paid.head


def _counted(inputs: Inputs, positions: Rows, classes: int) -> Tally:
    if not len(positions):
        return Tally.empty(classes)
    return Tally.of(predict(inputs, positions), inputs.cells.labels[positions])


def _few_a_patient(positions: Rows, units: Rows, most: int) -> Rows:
    """The first `most` cells of each patient."""
    order = np.argsort(units, kind="stable")
    ranked = units[order]
    few = np.arange(len(order)) - np.searchsorted(ranked, ranked) < most
    return np.sort(positions[order[few]])
