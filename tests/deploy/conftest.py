"""Homes of a server and of a lab, for processes that are started on them."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from client.home import SiteHome
from client.membership.enrolment import join, make_site
from server.membership.provisioning import admit, make_kit, make_server
from simulations.bench.processes import free_port
from tests.client.lab import make_lab


@pytest.fixture
def homes(tmp_path: Path) -> tuple[Path, SiteHome]:
    """A server's home, and that of a lab which joined it, called as packages of ours are."""
    now, folder = datetime.now(UTC), tmp_path / "of homes"
    server, home = folder / "server", SiteHome(make_lab(folder / "client").parent)
    make_server(server, f"127.0.0.1:{free_port()}", now)
    admit(server, make_site(home.folder, "lab", now), now)
    kit = make_kit(server, "lab")
    join(home.folder, kit, kit.fingerprint)
    return server, home
