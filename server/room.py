"""How much disk a study needs at the aggregator before a round of it is begun."""

from functools import lru_cache

from common.config import Study
from common.models import build
from common.models.vector import Layout
from common.room import LEAST


@lru_cache(maxsize=4)
def round_bytes(study: Study) -> int:
    """Bytes: the model's vector to each site and back in the database, a checkpoint, the rest.

    A round that the disk cannot hold would be cut off after the sites paid for it.
    """
    model = build(study.model, len(study.cell_types), study.image_side, study.seed)
    vector = 4 * Layout.of(model).size
    # A checkpoint holds at most three vectors of float32 and two of float64.
    return LEAST + vector * (2 * len(study.cohort) + 7)
