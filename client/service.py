"""The lab's client as a service: the node and its runner."""

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event

from client.home import SiteHome
from client.ledger_memory import check_own_ledger
from client.link import FleetLink, HaltedError
from client.membership import Membership
from client.record import SiteRecord
from client.runner import Runner
from client.site import open_site
from client.supernode import SuperNode
from common.errors import FederationError


def serve(home: SiteHome, halt: Event) -> None:
    """Answer the server until `halt`.

    Raises ConfigError or FederationError: keys or kit are not sound, the server refuses the site,
    or the home cannot be written. PrivacyError: the ledger lacks what the site's log says left.
    """
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.WARNING)
    membership = Membership.load(home.folder)
    with _alone(home), membership.audit_log() as log:
        check_own_ledger(open_site(home.site_file), log.path)
        link = FleetLink(membership.address, membership.authority, membership.node_key(), halt)
        runner = Runner(home.site_file, home.runner_log)
        try:
            record = SiteRecord(home, membership, log)
            SuperNode(home, link, runner, record, halt).serve()
        except HaltedError:
            return
        except OSError as error:
            raise FederationError(
                f"{error.filename or home.folder}: {error.strerror}; this site stops, and what was "
                "not sent stays here. Make room or mend the disk, and start it again"
            ) from error
        finally:
            halt.set()
            runner.stop()
            link.leave()
            home.status.unlink(missing_ok=True)


def runs(home: SiteHome) -> bool:
    """Whether the home's client runs at this moment; one that was killed does not."""
    if not home.state.is_dir():
        return False
    handle = _lock_file(home)
    try:
        return not _taken(handle)
    finally:
        os.close(handle)


@contextmanager
def _alone(home: SiteHome) -> Iterator[None]:
    """Hold the home's lock: two clients of one site would answer every round twice."""
    home.state.mkdir(exist_ok=True, mode=0o700)
    handle = _lock_file(home)
    try:
        if not _taken(handle):
            raise FederationError(f"{home.folder}: its client runs already; stop that one first")
        yield
    finally:
        os.close(handle)


def _lock_file(home: SiteHome) -> int:
    return os.open(home.state / "lock", os.O_RDWR | os.O_CREAT, 0o600)


def _taken(handle: int) -> bool:
    """Take the lock; whether it was free. The system frees it when its holder dies."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
