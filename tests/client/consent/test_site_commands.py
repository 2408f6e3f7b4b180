"""`hemofed site check` and `approve`, as typed."""

import json
import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event

import pytest
import torch
import typer
from typer.testing import CliRunner

from client.app import client_app
from client.consent.approvals import SignedApprovals
from client.consent.cli import app as consent_app
from client.consent.eligibility import taking_part
from client.consent.explanation import explain
from client.data.cache import prepare
from client.home import SiteHome
from client.ledger.cost import StudyCost
from client.ledger.ledger import Ledger
from client.membership.enrolment import join, make_site
from client.membership.membership import Membership
from client.service.cli import app as service_app
from client.service.service import serve
from client.service.worker import Runner
from client.site import open_site
from client.training import selftest
from client.training.own_figures import read_figures
from common.config.loading import dump, load
from common.config.study import CellSource, Participant, Runtime, Site, Study
from common.errors import ConfigError, FederationError, PrivacyError
from common.identity import load_signing_key
from common.identity.keys import make_signing_key
from common.privacy.accounting import epsilon
from common.privacy.masking.study_sum import study_sum
from common.wire.messages import read_refusal
from common.wire.proposal import Proposal
from server.membership.provisioning import admit, make_kit, make_server
from tests.client.lab import OPEN, check, context, first_model, make_lab, message, study
from tests.client.masking.company import PRIVACY as SHARED

NOW = datetime.now(UTC)
YES = ("--yes", "--by", "Dr. Grün", "--purpose", "leukaemia in children")
HELD = (
    *("policy.yaml", "site.yaml", "ledger.sqlite", "audit.jsonl", "approvals", "..", "."),
    *("approvals/decisions.jsonl", "identity/request.json", "kit/server.json", "kit/ca.crt"),
    *("site.log", "proposals", "proposals/one.json", "cells", "cells/meta.json"),
)
"""What a home goes by or tells, and the folder that it lies in."""
app = typer.Typer()
for part in (consent_app, service_app):
    app.add_typer(part)


@pytest.fixture(autouse=True)
def _no_runner(monkeypatch: pytest.MonkeyPatch) -> None:
    """`test_runner.py` starts it; here each check would wait for its modules."""
    monkeypatch.setattr(Runner, "try_out", lambda *_: None)


@pytest.fixture
def home(tmp_path: Path) -> SiteHome:
    place = SiteHome(make_lab(tmp_path / "lab").parent)
    make_server(tmp_path / "server", "127.0.0.1:9", NOW)
    admit(tmp_path / "server", make_site(place.folder, "lab", NOW), NOW)
    kit = make_kit(tmp_path / "server", "lab")
    join(place.folder, kit, kit.fingerprint)
    return place


def typed(*arguments: str, answer: str | None = None) -> str:
    result = CliRunner().invoke(app, arguments, input=answer)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.output


def test_check_names_each_topic_and_what_is_wrong(home: SiteHome) -> None:
    with pytest.raises(FederationError, match="not ready: connection"):
        typed("check", str(home.folder))
    result = CliRunner().invoke(app, ["check", str(home.folder), "--json"])
    verdicts = {line["topic"]: line["verdict"] for line in json.loads(result.output)}
    assert verdicts.pop("connection") == "wrong"
    assert verdicts.pop("policy") == "warning"
    assert set(verdicts.values()) <= {"ok", "warning"}
    (home.folder / "ledger.sqlite").unlink()
    home.folder.joinpath("identity", "node.key").chmod(0o644)
    result = CliRunner().invoke(app, ["check", str(home.folder), "--json"])
    found = {line["topic"]: line["verdict"] for line in json.loads(result.output)}
    assert found["ledger"] == found["identity"] == "wrong"


def test_studies_says_that_the_list_of_decisions_is_missing(home: SiteHome, tmp_path: Path) -> None:
    one = study()
    file = proposed(home, one, tmp_path / "one.json")
    typed("approve", str(home.folder), str(file), *YES)
    home.decisions.unlink()
    assert "is not approved at this site" in (said := folded(home)) and "is missing" in said


def test_check_asks_the_kernels_of_each_approved_study(
    home: SiteHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "no private study is approved" in said_of(home, "kernels")[1]
    one = study()
    typed("approve", str(home.folder), str(proposed(home, one, tmp_path / "one.json")), *YES)
    verdict, text = said_of(home, "kernels")
    assert verdict == "ok" and f"the same in any company, for {one.name}" in text
    monkeypatch.setattr(selftest, "_fault", lambda *_: "the features")
    verdict, text = said_of(home, "kernels")
    assert verdict == "wrong" and "the features of one image depend on which others" in text


@pytest.mark.parametrize("name", HELD)
def test_a_home_that_others_may_write_is_not_gone_by(
    home: SiteHome, tmp_path: Path, name: str
) -> None:
    cells_at_home(home)
    one, site = study(), open_site(home.site_file)
    typed("approve", str(home.folder), str(proposed(home, one, tmp_path / "one.json")), *YES)
    next(home.proposals.glob("*.json")).rename(home.proposals / "one.json")
    site.log.touch()
    check(SignedApprovals(home), site, one)
    assert said_of(home, "home") == ("ok", "nobody else can write what this site goes by")
    (home.folder / name).chmod(0o762)
    verdict, text = said_of(home, "home")
    assert verdict == "wrong" and "mode 0762 lets other users write it; type `chmod go-w" in text
    for does in (
        lambda: check(SignedApprovals(home), site, one),
        lambda: typed("approve", str(home.folder), one.name, *YES),
        lambda: serve(home, Event()),
    ):
        with pytest.raises(ConfigError, match="mode 0762 lets other users write it"):
            does()


def test_all_that_others_may_write_is_named_at_once(home: SiteHome) -> None:
    loose = [home.folder / name for name in ("policy.yaml", "identity", "proposals", "site.log")]
    home.proposals.mkdir()
    open_site(home.site_file).log.touch()
    for path in loose:
        path.chmod(0o777)
    verdict, text = said_of(home, "home")
    assert verdict == "wrong" and all(f"`chmod go-w {path}`" in text for path in loose)
    for number in range(50):
        (home.proposals / f"{number}").touch()
        (home.proposals / f"{number}").chmod(0o666)
    assert "; and 46 places more like these" in said_of(home, "home")[1]


@pytest.mark.parametrize("name", ["images", "images/3.png"])
def test_images_that_others_may_write_are_a_warning(home: SiteHome, name: str) -> None:
    """They count at the next index only, and may be the hospital's, not this user's."""
    (home.folder / name).chmod(0o766)
    verdict, text = said_of(home, "home")
    assert verdict == "warning" and "the next `hemofed data index` reads what others" in text
    assert f"{home.folder / name}: mode 0766" in text


def cells_at_home(home: SiteHome) -> None:
    """Have the lab's cache lie in its home, as `cells`."""
    (source,) = open_site(home.site_file).cells
    shutil.copytree(source.folder, home.folder / "cells")
    home.site_file.write_text(dump(Site(name="lab", cells=(CellSource(folder=Path("cells")),))))


def test_policy_and_ledger_may_be_links_and_what_is_replaced_may_not(
    home: SiteHome, tmp_path: Path
) -> None:
    one, site = study(), open_site(home.site_file)
    typed("approve", str(home.folder), str(proposed(home, one, tmp_path / "one.json")), *YES)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    for path in (site.policy, site.ledger):
        path.rename(elsewhere / path.name)
        path.symlink_to(elsewhere / path.name)
    reply = client_app(approvals=SignedApprovals(home))(message(one), context(home.site_file))
    assert read_refusal(reply) is None and site.ledger.is_symlink()
    with Ledger.read(elsewhere / "ledger.sqlite") as ledger:
        assert len(ledger.rows("debit")) == 1
    elsewhere.chmod(0o770)
    with pytest.raises(ConfigError, match="elsewhere: mode 0770"):
        check(SignedApprovals(home), site, one)
    elsewhere.chmod(0o700)
    for path in (home.decisions, home.audit, home.folder / "kit" / "server.json"):
        path.rename(elsewhere / path.name)
        path.symlink_to(elsewhere / path.name)
        with pytest.raises(ConfigError, match=f"{path.name}: is a link; put the file itself there"):
            check(SignedApprovals(home), site, one)
        (elsewhere / path.name).replace(path)
    check(SignedApprovals(home), site, one)


def said_of(home: SiteHome, topic: str) -> tuple[str, str]:
    """What `check` says of a topic: its verdict and its text."""
    result = CliRunner().invoke(app, ["check", str(home.folder), "--json"])
    lines = json.loads(result.output.splitlines()[0])
    return next((line["verdict"], line["text"]) for line in lines if line["topic"] == topic)


def test_check_says_what_is_wrong_with_the_cells(home: SiteHome, tmp_path: Path) -> None:
    source = home.folder / "images"
    verdict, text = said_of(home, "cells")
    assert verdict == "warning" and "of 40 the scale is not known: " in text
    scaled = Site(name="lab", cells=(CellSource(folder=prepare(source, 16, um_per_px=1.0)),))
    home.site_file.write_text(dump(scaled))
    assert said_of(home, "cells") == (
        "ok",
        f"40 cells of 10 known patients; `hemofed data check {source}` looks closer",
    )
    shutil.copy(source / "0.png", source / "1.png")
    reindexed = Site(name="lab", cells=(CellSource(folder=prepare(source, 16)),))
    home.site_file.write_text(dump(reindexed))
    verdict, text = said_of(home, "cells")
    assert verdict == "warning" and "1 image under two labels" in text
    (source / "cells.csv").write_text("path,label\n0.png,myeloblast")
    nobodys = Site(name="lab", cells=(CellSource(folder=prepare(source, 16)),))
    home.site_file.write_text(dump(nobodys))
    assert "1 cell of 0 known patients; no study that protects p" in said_of(home, "cells")[1]
    home.site_file.write_text(dump(Site(name="lab", cells=(CellSource(folder=source),))))
    verdict, text = said_of(home, "cells")
    assert verdict == "wrong" and "put the folder that it prints into site.yaml" in text


def test_check_names_the_floors_of_the_policy(home: SiteHome) -> None:
    floors = {"min_noise_multiplier": 0.7, "max_grad_norm": 2.5, "min_cohort": 3, "max_rounds": 77}
    (home.folder / "policy.yaml").write_text(dump(OPEN.model_copy(update=floors)))
    _, text = said_of(home, "policy")
    for word in ("noise at least 0.7", "clipped at 2.5", "3 sites or more", "at most 77 rounds"):
        assert word in text


def test_check_says_each_fault_once(home: SiteHome) -> None:
    policy = home.folder / "policy.yaml"
    policy.write_text(policy.read_text().replace("hours: []", "hours: [noon]"))
    assert "'noon': expected a window" in said_of(home, "policy")[1]
    for topic in ("hours", "ledger"):
        assert said_of(home, topic) == ("wrong", "as for policy, above")


def audited(home: SiteHome, event: str) -> list[dict[str, object]]:
    lines = map(json.loads, (home.folder / "audit.jsonl").read_text().splitlines())
    return [line["facts"] for line in lines if line["event"] == event]


def proposed(home: SiteHome, one: Study, file: Path) -> Path:
    """The file that the operator would send."""
    proposal = Proposal.make(one, load_signing_key(home.folder.parent / "server" / "signing.key"))
    file.write_text(proposal.model_dump_json())
    return file


def test_approve_explains_asks_and_signs(home: SiteHome, tmp_path: Path) -> None:
    one, site = study(), open_site(home.site_file)
    file = proposed(home, one, tmp_path / "proposal.json")
    typed("approve", str(home.folder), str(file), answer="n\n")
    said_no = {"study": one.name, "digest": one.digest, "reason": "declined"}
    assert audited(home, "not_approved") == [said_no] and audited(home, "approved") == []
    with pytest.raises(PrivacyError, match="is not approved at this site"):
        check(SignedApprovals(home), site, one)
    said = typed("approve", str(home.folder), str(file), answer="y\nDr. Grün\nresearch\n")
    mine = Membership.load(home.folder).member.fingerprint
    words = (one.digest, "epsilon 4", "float32 numbers leaves", "left for one more study: 100")
    for word in (*words, "lab train", f"lab: {mine}; this site"):
        assert word in said, said
    check(SignedApprovals(home), site, one)
    (line,) = audited(home, "approved")
    assert (line["by"], line["purpose"], line["until"]) == ("Dr. Grün", "research", "none")
    today = datetime.now(UTC).date()
    assert f"yes, by Dr. Grün on {today}, for: research" in folded(home)
    (home.proposals / f"{one.digest}.json").unlink()
    assert "research; its proposal is not here any more" in folded(home)
    typed("approve", str(home.folder), one.name, "--withdraw", answer="Dr. Blau\n")
    assert audited(home, "approval_withdrawn")[0]["by"] == "Dr. Blau"
    with pytest.raises(PrivacyError, match="its approval was withdrawn on .* by Dr. Blau"):
        check(SignedApprovals(home), site, one)


def folded(home: SiteHome) -> str:
    """What `studies` says."""
    return typed("studies", str(home.folder))


def test_an_approval_says_until_when_and_needs_a_name(home: SiteHome, tmp_path: Path) -> None:
    one = study()
    file = str(proposed(home, one, tmp_path / "proposal.json"))
    with pytest.raises(ConfigError, match="--yes: give --by, the person who decides"):
        typed("approve", str(home.folder), file, "--yes")
    with pytest.raises(ConfigError, match="2020-01-02 00:00 .* is past"):
        typed("approve", str(home.folder), file, *YES, "--until", "2020-01-01")
    with pytest.raises(ConfigError, match="--until: 9999-12-31 is out of the calendar"):
        typed("approve", str(home.folder), file, *YES, "--until", "9999-12-31")
    tomorrow = (datetime.now() + timedelta(days=1)).date()
    typed("approve", str(home.folder), file, *YES, "--until", f"{tomorrow}")
    end = tomorrow + timedelta(days=1)
    assert f"for: leukaemia in children, until {end} 00:00" in folded(home)
    with pytest.raises(ConfigError, match="0 approved studies are called so; there are: lab-test"):
        typed("approve", str(home.folder), "lab-tes", "--withdraw", "--by", "x")
    with pytest.raises(ConfigError, match="--yes: give --by, the person who decides too"):
        typed("approve", str(home.folder), one.digest[:8], "--withdraw", "--yes")
    typed("approve", str(home.folder), one.digest[:8], "--withdraw", "--yes", "--by", "x")
    assert "its approval was withdrawn on" in folded(home)


def test_a_study_that_the_policy_refuses_cannot_be_approved(home: SiteHome, tmp_path: Path) -> None:
    (home.folder / "policy.yaml").write_text(dump(OPEN.model_copy(update={"max_rounds": 2})))
    file = proposed(home, study(), tmp_path / "proposal.json")
    with pytest.raises(PrivacyError, match="max_rounds is 2"):
        typed("approve", str(home.folder), str(file), *YES)
    (line,) = audited(home, "not_approved")
    assert "refused by policy.yaml: 3 rounds; the policy's max_rounds is 2" in str(line["reason"])
    without = study(privacy={"mode": "none"})
    topics = dict(explain(open_site(home.site_file), without, {"lab"}).topics)
    assert topics["privacy"].startswith("NONE")
    assert "the first round" not in topics["each round"]


def test_all_that_stands_in_the_way_is_said_at_once(home: SiteHome, tmp_path: Path) -> None:
    """Not one a try: policy, side of the cells, device, budget."""
    site = load(Site, home.site_file)
    cuda = site.model_copy(update={"runtime": Runtime(device="cuda")})
    home.site_file.write_text(dump(cuda))
    changed = {"max_rounds": 2, "lifetime_epsilon": 3.0, "study_epsilon": 3.0}
    (home.folder / "policy.yaml").write_text(dump(OPEN.model_copy(update=changed)))
    one = study(image_side=32)
    file = str(proposed(home, one, tmp_path / "one.json"))
    with pytest.raises(PrivacyError) as refused:
        typed("approve", str(home.folder), file, *YES)
    said = str(refused.value)
    for reason in (
        "the policy's max_rounds is 2",
        "the study would cost epsilon",
        "torch finds no CUDA device",
        "its images have side 16, the study asks for 32",
        f"`hemofed data index {home.folder / 'images'} --side 32`",
    )[: 4 if torch.cuda.is_available() else 5]:
        assert reason in said, said
    (line,) = audited(home, "not_approved")
    assert "max_rounds is 2" in str(line["reason"])
    reply = client_app()(message(one, "query.prepare", number=0), context(home.site_file))
    assert read_refusal(reply) is not None
    logged = (home.folder / "site.log").read_text()
    assert "max_rounds is 2" in logged and "its images have side 16" in logged


@pytest.mark.parametrize(("units", "kept"), [(20, True), (30, False)])
def test_a_declared_number_that_is_far_off_needs_a_second_yes(
    home: SiteHome, tmp_path: Path, units: int, kept: bool
) -> None:
    one = study(cohort={"lab": Participant(units=units)})
    file = str(proposed(home, one, tmp_path / "one.json"))
    if not kept:
        assert "approved" in typed("approve", str(home.folder), file, *YES)
        return
    with pytest.raises(ConfigError, match="declares 20 images .* 32 would train.*--despite-units"):
        typed("approve", str(home.folder), file, *YES)
    said = typed("approve", str(home.folder), file, answer="n\n")
    assert "Take part all the same?" in said and "Shall lab take part" not in said
    assert audited(home, "not_approved")[-1]["reason"] == "declined"
    assert "would train" not in home.audit.read_text()
    assert "declined: the study declares 20 images" in open_site(home.site_file).log.read_text()
    verdict, text = said_of(home, "studies")
    assert verdict == "ok" and "none is proposed" in text
    assert "approved" in typed("approve", str(home.folder), file, *YES, "--despite-units")
    verdict, text = said_of(home, "studies")
    assert verdict == "warning" and "lab-test: the study declares 20 images" in text


def test_a_study_that_no_cell_can_take_part_in_is_not_approved(
    home: SiteHome, tmp_path: Path
) -> None:
    """The lab is told why and how many; the server learns that it has not approved."""
    one = study(cell_types=("basophil", "monocyte"))
    file = str(proposed(home, one, tmp_path / "one.json"))
    with pytest.raises(PrivacyError, match="none of this site's cells can train: of 40 cells .*"):
        typed("approve", str(home.folder), file, *YES, "--despite-units")
    site = open_site(home.site_file)
    assert audited(home, "not_approved")[-1]["reason"] == "declined"
    assert "myeloblast" not in home.audit.read_text()
    assert "myeloblast 20" in site.log.read_text()
    with pytest.raises(PrivacyError, match="is not approved at this site"):
        check(SignedApprovals(home), site, one)


def test_a_person_reads_how_many_cells_take_part(home: SiteHome, tmp_path: Path) -> None:
    file = str(proposed(home, study(), tmp_path / "one.json"))
    said = typed("approve", str(home.folder), file, *YES)
    told = taking_part(open_site(home.site_file), study())
    assert told.words.startswith("of 40 cells take part: 32 train, ")
    assert f"your cells  {told.words}" in said and "declared: 30 images" in said
    assert f"by type  {told.by_type} (train/validation/test)" in said
    verdict, text = said_of(home, "studies")
    assert (verdict, text) == ("ok", "lab-test: 32 images can train")


def test_a_lab_is_told_that_the_first_round_sends_its_cells_mean(home: SiteHome) -> None:
    model = {"name": "cnn", "width": 2, "encoder": "frozen", "centre": True}
    topics = dict(explain(open_site(home.site_file), study(model=model), {"lab"}).topics)
    assert "the first round's is the mean of the cells' features" in topics["each round"]


def test_a_lab_is_told_who_shares_the_noise_and_what_is_left_against_all_others(
    home: SiteHome,
) -> None:
    names = ("lab", "one", "two", "zoo")
    one = study(
        privacy=SHARED | {"dropouts": 1},
        cohort={name: Participant(units=30) for name in names},
    )
    topics = dict(explain(open_site(home.site_file), one, set(names)).topics)
    whole = StudyCost(one).noise_multiplier
    alone = replace(StudyCost(one).training, noise_multiplier=whole / 2**0.5, steps=6)
    for words in (
        "epsilon 4 at delta 0.0001 for each image, against the server with the help of 1 other ",
        f"noise of {whole:.3g} times that is made of the shares of 2 sites, for of 4 that train 1 ",
        f"This lab adds its share, {whole / 2**0.5:.3g} times, before anything leaves",
        f"all others together that share is all there is: epsilon {epsilon([alone], 1e-4):.3g}",
    ):
        assert words in topics["privacy"]
    size = len(first_model(one))
    assert topics["each round"].startswith(
        f"one sum of {size:,} integers of {study_sum(one, size).bits} bits leaves, of the clipped "
    )
    assert "the sum over all sites of the round, 3 or more" in topics["each round"]


def test_only_what_this_sites_server_signed_can_be_approved(home: SiteHome, tmp_path: Path) -> None:
    one = study()
    file = proposed(home, one, tmp_path / "proposal.json")
    other = json.loads(file.read_text())
    other["study"]["rounds"] = 2
    strange = Proposal.make(one, make_signing_key()).model_dump_json()
    for text, said in (
        (json.dumps(other), "the signature does not fit"),
        (strange, "the signature does not fit"),
        (dump(one), "is no proposal; give the proposal.json that the operator has"),
        (json.dumps(other["study"]), "is no proposal"),
    ):
        file.write_text(text)
        with pytest.raises(FederationError, match=rf"proposal.json: .*{said}"):
            typed("approve", str(home.folder), str(file), *YES)
    with pytest.raises(ConfigError, match="is no file, and 0 proposals are called so"):
        typed("approve", str(home.folder), one.name, *YES)
    with pytest.raises(PrivacyError, match="is not approved at this site"):
        check(SignedApprovals(home), open_site(home.site_file), one)


def test_studies_prints_long_names_and_reasons_whole(home: SiteHome, tmp_path: Path) -> None:
    one = study(name="a-study-of-" + "very-" * 8 + "long-name")
    typed("approve", str(home.folder), str(proposed(home, one, tmp_path / "one.json")), *YES)
    path = home.decisions
    path.write_text("{}")
    printed = typed("studies", str(home.folder))
    assert f"{one.name} ({one.digest:.12})" in printed
    assert "epsilon 4 at delta 0.0001" in printed and str(path) in printed
    assert "round 0/3" in printed


def test_studies_has_a_labs_own_figures_by_study(home: SiteHome, tmp_path: Path) -> None:
    one, site = study(), open_site(home.site_file)
    typed("approve", str(home.folder), str(proposed(home, one, tmp_path / "one.json")), *YES)
    assert "own cells" not in folded(home)
    for number in (1, 2):
        reply = client_app()(message(one, "evaluate", number), context(home.site_file))
        assert read_refusal(reply) is None
    last = read_figures(site.figures)[-1]
    assert f"  own cells  {last.words}" in folded(home) and "round 2, " in last.words


def test_studies_says_which_are_without_privacy(home: SiteHome, tmp_path: Path) -> None:
    one = study(privacy={"mode": "none"})
    file = str(proposed(home, one, tmp_path / "one.json"))
    said = typed("approve", str(home.folder), file, *YES)
    assert "NONE: unbounded" in said
    assert "without privacy: unbounded" in typed("studies", str(home.folder))


def test_pause_and_resume_are_files(home: SiteHome) -> None:
    typed("pause", str(home.folder))
    assert home.paused.exists()
    typed("resume", str(home.folder))
    assert not home.paused.exists()
