"""Makes a server, labs with rendered cells that have joined it, and a study, in one folder.

    <folder>/server/            as `hemofed server init` makes it, with the labs as members
             site-1/ ...        a lab's home, its cells in it, its ledger made
             study.yaml         the shipped first study, for these labs

All is as in earnest, but that the cells are rendered and one person holds every key.
"""

import shutil
from datetime import datetime
from pathlib import Path

from client.consent.eligibility import taking_part
from client.data.store import CellCache
from client.ledger.binding import create_ledger
from client.membership.enrolment import join, make_site
from client.site import open_site
from common.config.loading import CONFIGS, load
from common.config.study import Study
from common.files import write_text
from common.folders import whole_folder
from common.identity.admission_request import AdmissionRequest
from server.membership.provisioning import admit, make_kit, make_server
from simulations.config import DataSpec, Rendered
from simulations.demo.own_cells import copy_cache, say_source
from simulations.experiments import declared
from simulations.labs import Progress, gather

CELLS = 200
"""Rendered for each lab."""

_STUDY = CONFIGS / "studies" / "first.yaml"


def make_demo(
    folder: Path,
    address: str,
    sites: int,
    now: datetime,
    progress: Progress,
    passphrase: str | None = None,
) -> Study:
    """Make `folder`, whole or not at all, and return its study.

    `address` is host:port of the server. `sites` is at least the shipped study's `round.min_sites`.

    Raises:
        ConfigError: `folder` exists and is not empty.
    """
    study = load(Study, _STUDY)
    names = [f"site-{number}" for number in range(1, sites + 1)]
    with whole_folder(folder) as draft:
        server = draft / "server"
        make_server(server, address, now, passphrase)
        for name, cells in zip(names, _render(sites, study, progress), strict=True):
            request = _make_lab(draft / name, folder / name, cells, now, passphrase)
            admit(server, request, now, passphrase=passphrase)
        for name in names:
            kit = make_kit(server, name, passphrase=passphrase)
            join(draft / name, kit, kit.fingerprint, passphrase)
        units = {name: _training_units(draft / name, study) for name in names}
        write_text(draft / "study.yaml", _for_cohort(units))
        return load(Study, draft / "study.yaml")


def _render(sites: int, study: Study, progress: Progress) -> list[CellCache]:
    """Render the cells of each lab; each lab has its own stain and mix of types."""
    rendered = Rendered(sites=sites, cells=CELLS, side=study.image_side, alpha=1.0)
    data = DataSpec(source="rendered", rendered=rendered)
    labs = gather(data, study.image_side, study.seed, progress, study.field_um)
    return list(labs.caches.values())


def _make_lab(
    home: Path, final: Path, cells: CellCache, now: datetime, passphrase: str | None
) -> AdmissionRequest:
    """Make a lab's home up to its request: site.yaml, policy, keys, images, cells and ledger.

    final: the path that the home will have in the end.
    """
    request = make_site(home, home.name, now, passphrase)
    shutil.copytree(cells.meta["source"], home / "images")
    cache, images = copy_cache(cells, home / "cells", home / "images"), final.absolute() / "images"
    ledger, _ = create_ledger(open_site(home / "site.yaml"), final / "ledger.sqlite")
    ledger.close()
    say_source(cache, images)  # not before: the images, where they are now, are told of the ledger
    return request


def _training_units(home: Path, study: Study) -> int:
    """Return how many patients, or images, the lab declares."""
    return declared(taking_part(open_site(home / "site.yaml"), study).units["train"])


def _for_cohort(units: dict[str, int]) -> str:
    """Return the shipped study's text with its last part, the cohort, replaced."""
    before, _, _ = _STUDY.read_text(encoding="utf-8").partition("\ncohort:\n")
    lines = [f"  {name}: {{units: {n}, weight: {n}}}\n" for name, n in units.items()]
    return f"{before}\ncohort:\n{''.join(lines)}"
