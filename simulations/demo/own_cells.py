"""Gives a lab its own cells, copied from those that simulated sites share.

Simulated sites share the cells of one cache, and other runs render the same cells. A deployed lab's
cells have one ledger (client/ledger/data_mark.py), so each lab gets a copy without a trace of its
origin.
"""

import json
import shutil
from pathlib import Path

from client.data.store import META, CellCache
from client.ledger.binding import create_ledger
from client.site import open_site
from common.config.loading import dump, load
from common.config.study import CellSource, Site
from common.files import write_text


def copy_cache(cache: CellCache, folder: Path, images: Path) -> CellCache:
    """Copy `cache` to `folder`, as one that was made from the folder `images`."""
    shutil.copytree(cache.folder, folder)
    copy = CellCache.open(folder)
    say_source(copy, images)
    return copy


def say_source(cache: CellCache, images: Path) -> None:
    """Note in the cache that it was made from the folder `images`."""
    write_text(cache.folder / META, json.dumps(cache.meta | {"source": str(images)}, indent=2))


def make_own(site_file: Path) -> None:
    """Turn a simulated site's folder, by its site.yaml, into one with its own cells and ledger."""
    home, site = site_file.parent, open_site(site_file)
    sources = []
    for number, source in enumerate(load(Site, site_file).cells):
        folder = home / f"cache-{number}"
        copy_cache(CellCache.open(site.cells[number].folder), folder, home / f"images-{number}")
        sources.append(CellSource(folder=Path(folder.name), selection=source.selection))
    content = load(Site, site_file).model_copy(update={"cells": tuple(sources)})
    write_text(site_file, dump(content))
    for file in home.glob(f"{site.ledger.name}*"):
        file.unlink()
    create_ledger(open_site(site_file))[0].close()
