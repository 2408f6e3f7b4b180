"""Keeps the SuperLink's nodes equal to the registry; a node is a key with the name of a site."""

import logging
import time
from pathlib import Path

from common.audit.entry import loggable
from common.audit.log import AuditLog
from common.errors import ConfigError, FederationError
from common.files import file_digest
from common.identity import Registry
from common.wire.flower_internals import NOOP_ACCOUNT_NAME, NOOP_FLWR_AID, NodeStatus
from server.fleet_api.authentication import Gate
from server.flower.internals import LinkState
from server.home import ServerHome

_CONNECTABLE = [NodeStatus.REGISTERED, NodeStatus.ONLINE, NodeStatus.OFFLINE]
_log = logging.getLogger("hemofed.members")


class Registrar:
    """Admits and removes nodes as the registry says, and gives the registry to the gate."""

    def __init__(self, home: Path, state: LinkState, gate: Gate, log: AuditLog) -> None:
        self._home = home
        self._state = state
        self._gate = gate
        self._audit = log
        self._refused = ""

    def synchronise(self) -> None:
        """Admit the registry's active members, and remove nodes whose key is not one of theirs.

        A removed node is refused from its next request on, even in the middle of a run.

        Raises:
            FederationError, ConfigError: the registry is not sound. Nothing is changed.
        """
        registry = self._load()
        self._gate.follow(registry)
        members = {site: member.node_public_key for site, member in registry.active().items()}
        known = set()
        for node in self._state.get_node_info(statuses=_CONNECTABLE):
            if members.get(node.name) == node.public_key:
                known.add(node.name)
            else:
                self._state.delete_node(NOOP_FLWR_AID, node.node_id)
                _log.warning("site %s: removed; its key is not an active member's", node.name)
        for site in sorted(set(members) - known):
            self._state.create_node(NOOP_FLWR_AID, NOOP_ACCOUNT_NAME, members[site], 0, name=site)
            _log.warning("site %s: admitted", site)

    def _load(self) -> Registry:
        """Read the registry; one that is not sound is noted in the audit log, once."""
        try:
            return Registry.load(self._home)
        except (ConfigError, FederationError) as error:
            path = ServerHome(self._home).registry
            digest = file_digest(path) if path.exists() else "missing"
            if digest != self._refused:
                self._audit.append("registry_refused", digest=digest, reason=loggable(str(error)))
                self._refused = digest
            raise

    def watch(self, seconds: float) -> None:
        """Synchronise every `seconds`, so that revoked and expired memberships end; never returns.

        If the registry is not sound or the disk is full, nothing changes, and it is reported once.
        """
        said = ""
        while True:
            time.sleep(seconds)
            try:
                self.synchronise()
            except Exception as error:  # a loop that ended would miss the next revocation
                if str(error) != said:
                    _log.error("the registry is not followed: %s", error)
                said = str(error)
            else:
                said = ""
