"""What ties a site's ledger to its data, whichever study asks."""

import hashlib
from functools import lru_cache
from pathlib import Path

from client.data.store import CellCache
from client.ledger.data_mark import check_marks, check_may_follow, check_unmarked, write_marks
from client.ledger.ledger import Ledger
from client.policy.budget import Budget
from common.config.study import Site
from common.errors import DataError, PrivacyError


@lru_cache(maxsize=1024)
def data_fingerprint(site: Site) -> str:
    """SHA-256 (hex) of all the cells that `site` names: pixels, labels, patients, selections.

    It does not depend on a study, so two studies on the same cells share one ledger and one
    budget. Indexing again with other images or another side changes it; `continue_ledger` then
    continues the ledger. Each process computes it once: a site that is indexed again is another
    Site. Raises DataError when a cache or a selection cannot be read.
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


def create_ledger(site: Site, lies_at: Path | None = None) -> tuple[Ledger, list[Path]]:
    """Make the ledger of cells that have none, and mark the cells as its own.

    Returns the open ledger, and the folders of images that could not be marked. lies_at: where the
    ledger will lie, if the site's home is moved to its place afterwards. Raises PrivacyError, with
    nothing made, when the cells have a ledger, wherever it lies, or cannot be marked.
    """
    check_unmarked(site)
    ledger = Ledger.create(site.ledger, data_fingerprint(site))
    return ledger, write_marks(site, ledger, lies_at)


def create_simulated_ledger(site: Site) -> None:
    """Make the ledger of a simulated site, if it has none. Its cells belong to other sites too, and
    are not marked; no deployed lab accepts such a ledger."""
    if not site.ledger.exists():
        Ledger.create(site.ledger, data_fingerprint(site), simulated=True).close()


def continue_ledger(site: Site) -> tuple[Ledger, list[Path]]:
    """Bind the site's ledger to its cells as they are now, and mark the cells as its own.

    This is for when images were added or removed, another home uses the ledger too, or the ledger
    was moved. Returns the open ledger, and the folders of images that could not be marked. Raises
    PrivacyError when the cells have another ledger, or the site's is a copy of theirs.
    """
    ledger = Ledger.read(site.ledger)
    try:
        check_deployable(ledger)
        check_may_follow(site, ledger)
        if not ledger.is_for(data_fingerprint(site)):
            ledger.rebind(data_fingerprint(site))
        return ledger, write_marks(site, ledger)
    except Exception:
        ledger.close()
        raise


def open_ledger(
    site: Site, *, budget: Budget | None = None, expected_head: str | None = None
) -> Ledger:
    """Open the site's ledger, which must be the one that its cells' marks name.

    Raises PrivacyError when it is not, and for what `Ledger.open` finds.
    """
    ledger = Ledger.open(
        site.ledger, data_fingerprint(site), budget=budget, expected_head=expected_head
    )
    try:
        if not ledger.simulated:
            check_marks(site, ledger)
    except Exception:
        ledger.close()
        raise
    return ledger


def check_deployable(ledger: Ledger) -> None:
    """Raise PrivacyError for a simulated site's ledger, which is no account of a lab's cells."""
    if ledger.simulated:
        raise PrivacyError(
            f"{ledger.path}: is a simulated site's ledger, and holds back nothing; a lab has one "
            "of `hemofed site ledger create`"
        )
