"""What the model predicts for a site's cells."""

import numpy as np
import torch

from client.data.site_cells import Rows
from client.training.augmentation import fixed_batches
from client.training.inputs import Inputs
from common.device import autocast
from common.metrics import Floats

BATCH = 32


def predict(inputs: Inputs, positions: Rows) -> Floats:
    """Class probabilities of the cells at `positions` (B,), float64 (B, classes).

    A cell whose output is not finite gets zeros, so that it counts like any other: an error here
    would tell the server something about a cell that no noise covers. No bit of a cell's
    probabilities depends on the other cells (see `fixed_batches`).
    """
    network = inputs.network
    was_training = network.training
    network.eval()
    parts = [np.zeros((0, 0))]
    with torch.inference_mode(), autocast(inputs.device, inputs.precision):
        for filled, count in fixed_batches(positions, BATCH):
            logits = network(inputs.batch(filled))[:count]
            parts.append(np.nan_to_num(logits.double().softmax(1).cpu().numpy()))
    network.train(was_training)
    return np.concatenate(parts[1:]) if len(parts) > 1 else parts[0]
