"""A site takes part in the study that a person there approved, and in no other."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from client.app import client_app
from client.approvals import SignedApprovals
from client.explain import explain
from client.home import SiteHome
from client.membership import Membership
from client.site import open_site
from common.config import Member, Site
from common.errors import PrivacyError
from common.identity.documents import read_json
from common.identity.site_home import join, make_site, rotate_keys
from common.protocol import read_refusal
from common.yaml_files import dump
from server.provisioning import admit, make_kit, make_server, revoke
from tests.client.lab import OPEN, context, make_lab, message, study

NOW = datetime.now(UTC)


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """The site.yaml of a lab that joined a server."""
    file = make_lab(tmp_path / "lab")
    server = tmp_path / "server"
    make_server(server, "127.0.0.1:9092", NOW)
    admit(server, make_site(file.parent, "lab", NOW), NOW)
    kit = make_kit(server, "lab")
    join(file.parent, kit, kit.fingerprint)
    return file


def test_what_is_approved_passes_and_what_differs_in_one_number_does_not(site: Path) -> None:
    home, one = SiteHome(site.parent), study()
    approvals = SignedApprovals(home)
    app = client_app(approvals=approvals)
    assert "PrivacyError" in str(read_refusal(app(message(one), context(site))))
    approvals.approve(open_site(site), one)
    assert read_refusal(app(message(one), context(site))) is None
    changed = study(rounds=4)
    assert "PrivacyError" in str(read_refusal(app(message(changed), context(site))))
    approvals.withdraw(one)
    assert "PrivacyError" in str(read_refusal(app(message(one, attempt=1), context(site))))


def test_an_approval_that_nobody_at_the_site_signed_is_none(site: Path) -> None:
    home, one = SiteHome(site.parent), study()
    approvals, lab = SignedApprovals(home), open_site(site)
    path = approvals.approve(lab, one)
    signed = json.loads(path.read_text())

    other = study(rounds=2)
    signed["approval"]["digest"] = other.digest
    (home.approvals / f"{other.digest}.json").write_text(json.dumps(signed))
    with pytest.raises(PrivacyError, match="signature does not fit"):
        approvals.check(lab, other)

    path.with_name(f"{study(rounds=1).digest}.json").write_text(path.read_text())
    with pytest.raises(PrivacyError, match="it is for lab"):
        approvals.check(lab, study(rounds=1))

    path.write_text("{}")
    with pytest.raises(PrivacyError, match="is not this site's approval"):
        approvals.check(lab, one)


def test_what_was_approved_before_the_keys_changed_must_be_approved_again(site: Path) -> None:
    home, server, one = SiteHome(site.parent), site.parent.parent / "server", study()
    approvals, lab = SignedApprovals(home), open_site(site)
    path = approvals.approve(lab, one)
    admit(server, rotate_keys(home.folder, NOW), NOW)
    kit = make_kit(server, "lab")
    join(home.folder, kit, kit.fingerprint)
    with pytest.raises(PrivacyError, match=r"keys that this site has changed since; approve it ag"):
        approvals.check(lab, one)
    signed = json.loads(path.read_text())
    signed["approval"]["approved"] = "2020-01-01T00:00:00+00:00"
    path.write_text(json.dumps(signed))
    with pytest.raises(PrivacyError, match="it was altered, or signed with another key"):
        approvals.check(lab, one)
    approvals.approve(lab, one)
    approvals.check(lab, one)


def test_members_that_were_revoked_or_never_were_do_not_make_a_cohort(site: Path) -> None:
    home, server = SiteHome(site.parent), site.parent.parent / "server"
    admit(server, make_site(server.parent / "other", "other", NOW), NOW)
    kit = make_kit(server, "lab")
    join(home.folder, kit, kit.fingerprint)
    (home.folder / "policy.yaml").write_text(dump(OPEN.model_copy(update={"min_cohort": 2})))
    approvals, lab = SignedApprovals(home), open_site(site)
    pair = study(cohort={"lab": Member(units=20), "other": Member(units=20)})
    phantom = study(cohort={"lab": Member(units=20), "nobody": Member(units=20)})
    for one in (pair, phantom):
        approvals.approve(lab, one)
    approvals.check(lab, pair)
    with pytest.raises(PrivacyError, match=r"active members 1 sites train; .* min_cohort is 2"):
        approvals.check(lab, phantom)
    topics = dict(explain(lab, phantom, {"lab", "other"}).topics)
    assert "NOT active members, so they will not: nobody" in topics["together"]
    with Membership.load(home.folder).audit_log() as log:
        revoke(server, "other", NOW)
        Membership.load(home.folder).accept(read_json(server / "registry.json"), log)
    with pytest.raises(PrivacyError, match="min_cohort is 2"):
        approvals.check(lab, pair)


def test_a_site_that_calls_itself_otherwise_is_not_the_one_that_approved(site: Path) -> None:
    home, one = SiteHome(site.parent), study()
    approvals = SignedApprovals(home)
    lab = open_site(site)
    approvals.approve(lab, one)
    renamed = Site.model_validate(lab.model_dump() | {"name": "other"})
    site.write_text(dump(renamed))
    with pytest.raises(PrivacyError, match=r"is not this site's approval .*it is for lab"):
        approvals.check(open_site(site), one)


def test_a_site_does_not_approve_in_another_name_than_its_own(site: Path) -> None:
    """Signed by the site's own key, but for a name that its identity has not."""
    one, lab = study(), open_site(site)
    renamed = Site.model_validate(lab.model_dump() | {"name": "other"})
    approvals = SignedApprovals(SiteHome(site.parent))
    approvals.approve(renamed, one)
    with pytest.raises(PrivacyError, match=r"site.yaml says other, the identity lab"):
        approvals.check(renamed, one)
