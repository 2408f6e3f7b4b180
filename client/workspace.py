"""A study's model and a site's cells, loaded once a process and ready to use."""

from functools import lru_cache

import torch

from client.batches import Inputs
from client.site import open_cells
from common.config import Site, Study
from common.device import resolve
from common.models import Classifier, build
from common.models.features import cached_features


def workspace(site: Site, study: Study) -> tuple[Classifier, Inputs]:
    """The study's model and the site's cells, ready for it."""
    device = resolve(site.runtime.device)
    model = _model(study, device)
    cells = open_cells(site, study)
    if not model.frozen:
        return model, Inputs(cells, model, device)
    features = _features(site, study, device)
    return model, Inputs(cells, model.head, device, features)


@lru_cache(maxsize=2)
def _model(study: Study, device: torch.device) -> Classifier:
    model = build(study.model, len(study.cell_types), study.image_side, study.seed)
    return model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


@lru_cache(maxsize=32)
def _features(site: Site, study: Study, device: torch.device) -> torch.Tensor:
    """The frozen encoder's features of all the site's cells, (N, D); kept on disk."""

    model = _model(study, device)
    parts = open_cells(site, study).parts
    precision = site.runtime.precision
    found = [cached_features(model, part, device, precision) for part in parts]
    return torch.cat([torch.from_numpy(part) for part in found])
