"""What a site holds back although the server asks by all the rules."""

import json
from pathlib import Path

from typer.testing import CliRunner

from client.service_cli import app as site_app
from server.service_cli import app as server_app
from tests.deploy.federation import DEADLINE, Federation, running, wait_until


def typed(group: object, *arguments: str) -> str:
    result = CliRunner().invoke(group, arguments)  # type: ignore[arg-type]
    assert result.exit_code == 0, result.output
    return result.output


def audited(federation: Federation, name: str, event: str) -> list[dict[str, object]]:
    return [line for line in federation.audit(name) if event in json.dumps(line)]


def test_a_pause_holds_the_next_release_and_a_changed_study_is_refused(tmp_path: Path) -> None:
    with running(tmp_path) as federation:
        name = sorted(federation.sites)[0]
        home = federation.sites[name]

        changed = federation.study.model_copy(update={"rounds": 5})
        other = federation.run(changed)
        said = federation.wait_for(other, "waiting for sites")
        wait_until(lambda: _all_refuse(other.said()), f"all refuse: {said}")
        assert audited(federation, name, "refused")
        typed(server_app, "stop", str(federation.server), other.folder.name)
        federation.wait_for(other, "stopped")

        typed(site_app, "pause", str(home.folder))
        before = len(audited(federation, name, "released"))
        stored = federation.run()
        wait_until(lambda: json.loads(home.status.read_text())["paused"], "the site is paused")
        said = federation.wait_for(stored, "waiting for sites")
        paused = {name: "sits out: paused"}
        wait_until(lambda: paused.items() <= stored.said().get("sites", {}).items(), "it is said")
        assert len(audited(federation, name, "released")) == before
        typed(site_app, "resume", str(home.folder))
        federation.wait_for(stored, "completed")
        assert len(audited(federation, name, "released")) > before
        assert "completed" in typed(server_app, "status", str(federation.server))


def _all_refuse(said: dict[str, object]) -> bool:
    sites = said.get("sites")
    return isinstance(sites, dict) and all("PrivacyError" in str(word) for word in sites.values())


def test_a_run_that_comes_with_code_is_refused(tmp_path: Path) -> None:
    with running(tmp_path, rounds="tests.deploy.foreign_rounds") as federation:
        stored = federation.run()
        wait_until(lambda: _all_refuse(stored.said()), "all refuse", DEADLINE)
        for name in federation.sites:
            assert audited(federation, name, "refused")
