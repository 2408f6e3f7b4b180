"""Which of a lab's cells a study leaves out, and why: for the lab alone, in words and counts."""

from collections.abc import Iterator

from client.site import selected, used
from common.config import Site, Study
from common.data.store import CellCache
from common.words import count


def left_out(cache: CellCache, study: Study) -> Iterator[str]:
    """A sentence for each reason why cells of the cache do not take part in the study.

    Together they are as many as `client.site.used` does not take: a cell of a type outside the
    study is told as that, whether or not its patient is known.
    """
    outside = {
        name: number for name, number in cache.counts.items() if name not in study.cell_types
    }
    if outside:
        types = ", ".join(f"{name} {number:,}" for name, number in outside.items())
        yield f"{count(sum(outside.values()), 'cell')} of types outside the study ({types})"
    if unknown := len(cache) - sum(outside.values()) - len(used(cache, study)):
        yield f"{count(unknown, 'cell')} of unknown patients (the study has unit: patient)"


def left_out_of_site(site: Site, study: Study) -> str:
    """`left_out` of all the site's cells. Raises DataError: a cache or selection is not there."""
    caches = [selected(source, CellCache.open(source.folder))[0] for source in site.cells]
    kept = sum(len(used(cache, study)) for cache in caches)
    cells = sum(map(len, caches))
    reasons = [f"{cache.folder}: {said}" for cache in caches for said in left_out(cache, study)]
    return "; ".join([f"{cells - kept:,} of {count(cells, 'cell')}", *reasons])
