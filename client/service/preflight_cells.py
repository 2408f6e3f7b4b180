"""What a site's check says about its cells, from their caches."""

from pathlib import Path
from typing import Literal

from client.data.patient_names import unknown
from client.data.quality.from_cache import findings
from client.data.scale import NO_SCALE
from client.data.site_cells import selected
from client.data.store import CellCache
from common.config.study import Site
from common.text import count, typed


def look_at_cells(site: Site) -> tuple[Literal["ok", "warning", "wrong"], str]:
    """Return the verdict on the site's cells, and its text.

    A site without cells is "wrong". A finding or an unknown scale is a "warning": the client
    starts, and a person decides. Raises DataError for an unreadable cache or selection.
    """
    caches = [selected(source, CellCache.open(source.folder))[0] for source in site.cells]
    cells = sum(len(cache) for cache in caches)
    patients = len({patient for cache in caches for patient in cache.patients if patient})
    said = [f"{count(cells, 'cell')} of {count(patients, 'known patient')}"]
    if not cells:
        return "wrong", said[0]
    if not patients:
        said.append("no study that protects patients can train on them")
    unscaled = sum(len(cache) for cache in caches if cache.meta["um_per_px"] is None)
    if unscaled:
        said.append(f"of {unscaled:,} the scale is not known: {NO_SCALE}")
    for cache in caches:
        if why := unknown(cache.patients.tolist()):
            said.append(f"{cache.folder}: {why}")
        said += [
            f"{cache.folder}: its index passed over {number:,} {reason}"
            for reason, number in cache.meta["skipped"].items()
        ]
    found = findings(caches)
    said += [finding.what for finding in found]
    sources = [cache.meta["source"] for cache in caches if Path(cache.meta["source"]).exists()]
    said += [
        f"`{typed('hemofed', 'data', 'check', source)}` looks closer"
        for source in dict.fromkeys(sources)
    ]
    return "warning" if found or unscaled else "ok", "; ".join(said)
