"""The model on a site's cells."""

import numpy as np
import torch

from client.batches import Inputs
from client.site import Rows
from common.metrics import Floats, Tally

BATCH = 64


def predict(inputs: Inputs, positions: Rows) -> Floats:
    """Class probabilities of the cells at `positions`, float64 (B, classes)."""
    network = inputs.network
    was_training = network.training
    network.eval()
    parts = [np.zeros((0, 0))]
    with torch.inference_mode():
        for start in range(0, len(positions), BATCH):
            logits = network(inputs.batch(positions[start : start + BATCH]))
            parts.append(logits.double().softmax(1).cpu().numpy())
    network.train(was_training)
    return np.concatenate(parts[1:]) if len(parts) > 1 else parts[0]


def tally(inputs: Inputs, split: str, classes: int) -> Tally:
    """Confusion and calibration counts on the site's cells of `split`."""
    positions = inputs.cells.rows(split)
    if not len(positions):
        return Tally.empty(classes)
    return Tally.of(predict(inputs, positions), inputs.cells.labels[positions])
