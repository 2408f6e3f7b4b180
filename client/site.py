"""Which site this client answers for."""

import os
from pathlib import Path

from flwr.app import Context

from common.config.loading import load
from common.config.study import CellSource, Site
from common.errors import ConfigError

SITES_VARIABLE = "HEMOFED_SITES"
"""A folder of sites, for engines that number their nodes (Flower's simulation engine)."""


def site_file(context: Context) -> Path:
    """The `site.yaml` of this node.

    The node config of every deployed client names it (`site`). A simulated node has only a
    `partition-id`: it takes the file of that number below the run's folder (`out`) or, where the
    run names no folder, below the one in `SITES_VARIABLE`. Raises ConfigError when there is none.
    """
    named = context.node_config.get("site")
    if named is not None:
        return Path(str(named))
    number, out = context.node_config.get("partition-id"), context.run_config.get("out")
    folder = f"{out}/sites" if out else os.environ.get(SITES_VARIABLE)
    if not folder or number is None:
        raise ConfigError(
            "this client does not know its site: give the node config site=PATH of its site.yaml, "
            f"the run config out=FOLDER of a prepared run, or {SITES_VARIABLE}=FOLDER of sites"
        )
    files = sorted(Path(folder).glob("*/site.yaml"))
    if int(number) >= len(files):
        raise ConfigError(f"{folder}: no site number {number} of {len(files)}")
    return files[int(number)]


def open_site(path: Path) -> Site:
    """Read a site.yaml and make its relative paths absolute. Raises ConfigError if it is wrong."""
    site, base = load(Site, path), path.parent.absolute()
    cells = tuple(
        CellSource(
            folder=base / source.folder,
            selection=base / source.selection if source.selection else None,
        )
        for source in site.cells
    )
    files = {name: base / getattr(site, name) for name in ("policy", "ledger", "log", "figures")}
    return site.model_copy(update={"cells": cells, **files})
