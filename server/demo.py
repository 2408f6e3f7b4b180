"""A server and its sites in one folder, for trying things out on one machine."""

from datetime import datetime
from pathlib import Path

from common.folders import whole_folder
from common.identity.site_home import join, make_site
from server.provisioning import admit, make_kit, make_server


def make_demo(
    folder: Path, address: str, sites: int, now: datetime, passphrase: str | None = None
) -> list[str]:
    """Make `folder`/server and `folder`/site-1 ... as homes of their own; returns the sites' names.

    All is as in earnest, but that one person holds every key. Raises ConfigError when `folder`
    exists and is not empty.
    """
    names = [f"site-{number}" for number in range(1, sites + 1)]
    with whole_folder(folder) as draft:
        server = draft / "server"
        make_server(server, address, now, passphrase)
        for name in names:
            request = make_site(draft / name, name, now, passphrase)
            admit(server, request, now, passphrase=passphrase)
        for name in names:
            kit = make_kit(server, name, passphrase=passphrase)
            join(draft / name, kit, kit.fingerprint, passphrase)
    return names
