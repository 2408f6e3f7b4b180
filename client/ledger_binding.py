"""What ties a site's ledger to its data, whatever study asks."""

import hashlib

from common.config import Site
from common.data.store import CellCache
from common.errors import DataError


def data_fingerprint(site: Site) -> str:
    """Hex digest of all the cells that `site` names: pixels, labels, patients, selections.

    It does not depend on a study, so two studies on the same cells share one ledger and one
    budget. Indexing again with other images or another side changes it; `Ledger.rebind` then
    continues the ledger. Raises DataError when a cache or a selection cannot be read.
    """
    digest = hashlib.sha256()
    for source in site.cells:
        digest.update(CellCache.open(source.folder).fingerprint.encode())
        if source.selection is not None:
            try:
                digest.update(hashlib.sha256(source.selection.read_bytes()).digest())
            except OSError as error:
                raise DataError(f"{source.selection}: cannot be read ({error.strerror})") from error
    return digest.hexdigest()
