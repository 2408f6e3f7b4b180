"""`hemofed simulate`: its options and what it prints."""

import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from common.config.loading import dump, load
from common.config.study import Study
from common.errors import ConfigError, HemofedError
from common.files import file_digest
from hemofed import app
from simulations.report.description import read_description
from simulations.run import resumed
from tests.simulations.small import simulation
from tests.simulations.test_bad_input import make_lab


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(dump(simulation()))
    return path


def simulate(*words: str) -> str:
    done = CliRunner().invoke(app, ["simulate", *words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_the_command_to_run_what_was_prepared_can_be_pasted(tmp_path: Path, config: Path) -> None:
    out = tmp_path / f"a folder whose path is longer than a line {'x' * 80}"
    *_, command = simulate(str(config), "--prepare-only", "--out", str(out)).splitlines()
    _, program, *words, given = shlex.split(command)
    assert Path(program).name == "flwr" and Path(program).exists()
    assert words == ["run", ".", "--federation-config", "num-supernodes=3", "--run-config"]
    assert given == f'study="{out / "study.yaml"}" out="{out}"'


def test_what_is_prepared_for_flower_names_the_weights_that_its_bundle_leaves_out(
    tmp_path: Path,
) -> None:
    changes = ["model.encoder=frozen", "model.name=efficientnet-lite0", "model.projection=rendered"]
    simulate_small = [word for change in changes for word in ("--set", f"study.{change}")]
    config, out = tmp_path / "small.yaml", tmp_path / "out"
    config.write_text(dump(simulation(study={"model": {"name": "efficientnet-lite0"}})))
    simulate(str(config), *simulate_small, "--prepare-only", "--out", str(out))
    model = load(Study, out / "study.yaml").model
    assert model.projection is not None
    assert file_digest(Path(model.projection)) == model.projection_sha256


def test_a_run_cannot_be_kept_in_a_file(tmp_path: Path, config: Path) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(ConfigError, match="out: is a file; choose another --out"):
        simulate(str(config), "--out", str(tmp_path / "out"))


def test_a_bad_setting_is_named_not_the_file(config: Path) -> None:
    with pytest.raises(ConfigError, match=r"--set study.rounds=0: Input should be .*\(value: 0\)"):
        simulate(str(config), "--set", "study.rounds=0")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "Smears."),
        (["--set", "runtime.threads=2"], "Smears."),
        (["--set", "study.rounds=2"], "Smears. Changed by --set study.rounds=2."),
        (["--set", "study.description=Mine"], "Mine"),
        (["--data", "labs"], "The cells are images, not rendered as in the file."),
        (
            ["--data", "labs", "--set", "study.rounds=2"],
            "The cells are images, not rendered as in the file. Changed by --set study.rounds=2.",
        ),
    ],
)
def test_a_changed_run_does_not_keep_a_description_that_is_not_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    make_lab(tmp_path / "labs", "a", [("lymphocyte", ""), ("monocyte", "")] * 10)
    Path("small.yaml").write_text(dump(simulation(study={"description": "Smears."})))
    simulate("small.yaml", "--prepare-only", "--out", "run", *options)
    kept = resumed(Path("run")).study
    assert read_description(Path("run"), kept) == said
    if not any("description" in option for option in options):
        assert kept.description == "Smears.", "what is drawn at random hangs on the study's digest"


@pytest.mark.parametrize(
    ("where", "said"), [("nowhere", "nowhere: is not a folder"), ("", "data.root is not given")]
)
def test_without_a_folder_of_images_no_run_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: Path, where: str, said: str
) -> None:
    monkeypatch.setenv("HEMOFED_DATA", where)
    out = tmp_path / "run"
    with pytest.raises(HemofedError, match=said):
        simulate(str(config), "--set", "data.source=images", "--out", str(out))
    assert not out.exists()


@pytest.mark.parametrize("by", ["option", "variable"])
def test_a_run_knows_its_images_wherever_it_is_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: Path, by: str
) -> None:
    monkeypatch.chdir(tmp_path)
    make_lab(tmp_path / "labs", "a", [("lymphocyte", ""), ("monocyte", "")] * 10)
    given = ["--data", "labs"] if by == "option" else ["--set", "data.source=images"]
    if by == "variable":
        monkeypatch.setenv("HEMOFED_DATA", "labs")
    simulate(str(config), *given, "--prepare-only", "--out", "run")
    assert resumed(Path("run")).data.root == tmp_path / "labs"


def test_the_report_describes_a_changed_run_as_changed(tmp_path: Path, config: Path) -> None:
    out = tmp_path / "run"
    said = simulate(str(config), "--out", str(out), "--set", "study.rounds=1")
    assert f"report: {out / 'report.html'}" in said.splitlines()
    assert "Changed by --set study.rounds=1." in (out / "report.html").read_text()


def test_a_site_that_took_no_part_is_named_at_the_end_with_its_reason(tmp_path: Path) -> None:
    make_lab(tmp_path / "labs", "both", [("lymphocyte", ""), ("monocyte", "")] * 20)
    make_lab(tmp_path / "labs", "idle", [("monocyte", "test")] * 12)
    study = {"cell_types": ["lymphocyte", "monocyte"]}
    path = tmp_path / "small.yaml"
    path.write_text(dump(simulation(data={"source": "images"}, study=study)))
    said = simulate(str(path), "--data", str(tmp_path / "labs"), "--out", str(tmp_path / "run"))
    assert "idle: left out of all 3 rounds it was asked in: refused: internal (the site has" in said
    assert "idle has no validation cells" in said
