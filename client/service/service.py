"""The lab's client as a service: the node and its runner."""

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from threading import Event

from client.consent.approvals import SignedApprovals
from client.data.store import CellCache
from client.fleet_api.fleet_client import FleetLink, HaltedError, ShutOutError
from client.fleet_api.reconnect import Patience
from client.home import SiteHome
from client.ledger.ledger import Ledger
from client.ledger.rollback import check_own_ledger
from client.membership.membership import Membership
from client.service.message_audit import MessageAudit
from client.service.node import SuperNode
from client.service.worker import Runner
from client.site import open_site
from common.config.study import Site
from common.disk_space import check_room
from common.errors import DataError, FederationError, PrivacyError
from common.files import make_folder
from common.untrusted_text import log_plainly

_log = logging.getLogger("hemofed.site")


def serve(home: SiteHome, halt: Event) -> None:
    """Answer the server's messages until `halt` is set, and set it when this function ends.

    Raises:
        ConfigError: the keys or the kit are missing or damaged, or others may write the home.
        FederationError: the server refuses the site, the kit or the audit log is damaged, another
            client serves this home, or the home cannot be written.
        PrivacyError: the ledger is a simulated site's, or lacks the row that the audit log names
            last; or the list of decisions is not whole.
    """
    log_plainly()
    membership = Membership.load(home.folder)
    site = open_site(home.site_file)
    home.check_ours(site)
    with _alone(home):
        check_own_ledger(site, home.audit)
        SignedApprovals(home).catch_up()
        _say_what_is_missing(site)
        runner = Runner(home.site_file, home.runner_log)
        try:
            check_room(home.folder)
            runner.start()
            _serve(membership, home, runner, halt)
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
            home.status.unlink(missing_ok=True)


def _say_what_is_missing(site: Site) -> None:
    """Warn of a ledger or cache that cannot be read, before a study needs it."""
    try:
        Ledger.read(site.ledger).close()
    except PrivacyError as error:
        _log.warning("%s", error)
    for source in site.cells:
        try:
            CellCache.open(source.folder)
        except DataError as error:
            _log.warning("%s", error)


def _serve(membership: Membership, home: SiteHome, runner: Runner, halt: Event) -> None:
    """Serve as `membership`, and again by the keys in the home after the server shut the site out.

    A server that lost its state knows the members of its registry by other numbers. A server that
    admitted a site's next keys waits until the site joins with them.
    """
    patience = Patience(halt)
    while not halt.is_set():
        try:
            _serve_as(membership, home, runner, patience, halt)
        except ShutOutError as error:
            patience.wait(membership.shut_out(error, datetime.now(UTC)))
            membership = Membership.load(home.folder)
        except FederationError:
            before, membership = membership, Membership.load(home.folder)
            if membership.member == before.member:
                raise


def _serve_as(
    membership: Membership, home: SiteHome, runner: Runner, patience: Patience, halt: Event
) -> None:
    with membership.audit_log() as log:
        link = FleetLink(membership.address, membership.authority, membership.node_key(), halt)
        try:
            if not link.connect(home.node_number):
                # The message is for a former node, which the server does not know any more.
                home.inflight.unlink(missing_ok=True)
            patience.renew()
            record = MessageAudit(home, membership, log)
            SuperNode(home, link, runner, record, halt).serve()
        finally:
            link.leave()


def runs(home: SiteHome) -> bool:
    """Whether a client of this home runs at this moment.

    The client holds a lock, which the system releases when the client dies.
    """
    if not home.state.is_dir():
        return False
    handle = _lock_file(home)
    try:
        return not _taken(handle)
    finally:
        os.close(handle)


@contextmanager
def _alone(home: SiteHome) -> Iterator[None]:
    """Hold the home's lock: two clients of one site would answer every round twice.

    Raises FederationError when another client holds it.
    """
    make_folder(home.state)
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
    """Try to take the lock, and return whether it was free. It is free once its holder dies."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
