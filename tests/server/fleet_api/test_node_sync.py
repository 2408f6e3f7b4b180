"""The SuperLink's nodes follow the registry; one that was altered is not followed, and told of."""

import json
from typing import Any

import pytest
from flwr.supercore.constant import NodeStatus

from common.audit.log import AuditLog
from common.errors import FederationError
from common.identity import load_signing_key
from server.fleet_api.authentication import Gate
from server.fleet_api.node_sync import Registrar
from server.fleet_api.rejection_log import Refusals
from tests.server.nodes import SITES, Setting


def nodes(setting: Setting) -> list[str]:
    """The sites whose nodes may connect."""
    statuses = [NodeStatus.REGISTERED, NodeStatus.ONLINE]
    return sorted(node.name for node in setting.state.get_node_info(statuses=statuses))


def test_an_altered_registry_is_not_followed_and_each_alteration_is_one_line(
    setting: Setting,
) -> None:
    path = setting.home / "registry.json"
    key = load_signing_key(setting.home / "signing.key")
    with AuditLog.open(setting.home / "audit.jsonl", key) as log:
        registrar = Registrar(setting.home, setting.state, Gate(Refusals(log)), log)
        registrar.synchronise()
        sound = path.read_text()
        for status, said in (
            ("revoked", "signature does not fit"),
            ("active ", "is not a registry"),
        ):
            path.write_text(sound.replace('"active"', f'"{status}"', 1))
            for _ in range(3):
                with pytest.raises(FederationError, match=said):
                    registrar.synchronise()
        assert nodes(setting) == sorted(SITES)
        path.write_text(sound)
        registrar.synchronise()
    found: list[dict[str, Any]] = setting.lines("registry_refused")
    assert len({line["digest"] for line in found}) == len(found) == 2
    assert "does not fit" in found[0]["reason"]
    assert json.loads(sound)["registry"]["version"] == 1 + len(SITES)
