"""A study's model and a site's cells, loaded once a process and ready to use."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import nn

from client.data.site_cells import SiteCells, open_cells
from client.training.feature_cache import cached_features
from client.training.inputs import Inputs
from common.config.study import ModelSpec, Site, Study
from common.device import Precision, place, quickest, resolve
from common.errors import because_of
from common.models import Classifier, build, federated, trainable
from common.models.parameter_vector import Layout
from common.wire.reasons import Reason


@dataclass(frozen=True)
class Workspace:
    """What a round at a site works with. All messages share the model: load a message's first."""

    model: Classifier
    parameters: dict[str, nn.Parameter]
    """The parameters that travel between site and server."""
    layout: Layout
    inputs: Inputs

    @property
    def trainable_size(self) -> int:
        """The number of values in a gradient."""
        return sum(value.numel() for value in trainable(self.inputs.network).values())


def workspace(site: Site, study: Study) -> Workspace:
    """The study's model and the site's cells, as images or as features that the model takes.

    Raises HemofedError for a device, weights or cells that the study needs and the site lacks.
    """
    device = resolve(site.runtime.device)
    with because_of(Reason.WEIGHTS):
        made = _model(study.model, len(study.cell_types), study.image_side, study.seed, device)
    model, parameters, layout = made
    cells = open_cells(site, study)
    precision = _precision(site, study, device)
    if model.frozen:
        features = _features(cells, study, device, precision)
        inputs = Inputs(cells, model.head, device, features, precision=precision)
    else:
        images = _images(cells, device)
        inputs = Inputs(cells, model, device, images=images, precision=precision)
    return Workspace(model, parameters, layout, inputs)


def _precision(site: Site, study: Study, device: torch.device) -> Precision:
    """The precision of the network's arithmetic: under privacy float32, whatever the runtime says.

    The runtime must not affect the clipping, and in bfloat16 a cell's features depend a little on
    the other cells of its batch.
    """
    if study.privacy.mode != "none":
        return "float32"
    return quickest(device, site.runtime.precision)


@lru_cache(maxsize=2)
def _model(
    spec: ModelSpec, classes: int, side: int, seed: int, device: torch.device
) -> tuple[Classifier, dict[str, nn.Parameter], Layout]:
    """The model, cached by what it is made from: a federation's studies and baselines share one."""
    model = build(spec, classes, side, seed)
    layout = Layout.of(model)
    place(model, device)
    return model, federated(model), layout


@lru_cache(maxsize=32)
def _features(
    cells: SiteCells, study: Study, device: torch.device, precision: Precision
) -> torch.Tensor:
    """The frozen encoder's features of all the cells, (N, D); they are kept on disk."""
    model, *_ = _model(study.model, len(study.cell_types), study.image_side, study.seed, device)
    found = [cached_features(model, part, device, precision) for part in cells.parts]
    return torch.cat([torch.from_numpy(part) for part in found]).to(device)


@lru_cache(maxsize=32)
def _images(cells: SiteCells, device: torch.device) -> torch.Tensor | None:
    """All the pixels, on a GPU that has room for them twice; None: they stay on disk."""
    if device.type == "cpu":
        return None
    needed = len(cells.labels) * 3 * cells.parts[0].side ** 2
    free, _ = torch.cuda.mem_get_info(device)
    if 2 * needed > free:
        return None
    return torch.from_numpy(cells.take(np.arange(len(cells.labels)))).to(device)
