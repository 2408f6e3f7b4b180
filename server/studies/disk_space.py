"""How much disk space a study needs at the server before one of its rounds may start."""

from functools import lru_cache

from common.config.study import Study
from common.disk_space import LEAST
from common.models import build
from common.models.parameter_vector import Layout


@lru_cache(maxsize=4)
def round_bytes(study: Study) -> int:
    """Return the bytes that a round of the study needs.

    They hold the model's vector to each site and back, beside the database; a checkpoint; and
    `LEAST` for the rest. A round that the disk cannot hold would be cut off after it has cost the
    sites privacy.
    """
    model = build(study.model, len(study.cell_types), study.image_side, study.seed)
    vector = 4 * Layout.of(model).size
    # A checkpoint holds at most three vectors of float32 and two of float64.
    return LEAST + vector * (2 * len(study.cohort) + 7)
