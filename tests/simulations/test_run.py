"""Whole simulations, small: the same numbers whatever runs them, and after any interruption."""

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from flwr.serverapp import Grid
from typer.testing import CliRunner

from client.data.site_cells import open_cells
from client.ledger.spending import spent_epsilon
from client.site import open_site
from common.config.loading import dump, load
from common.config.study import Study
from common.errors import ConfigError, FederationError
from common.metrics import NAMES
from common.privacy.accounting import Event, calibrate, epsilon
from hemofed import app
from server.rounds.record import RoundRecord
from simulations.engine import engines
from simulations.engine.engines import Observe
from simulations.experiments import PlannedStudy
from simulations.run import federate, prepare, run
from tests.simulations.small import MASKED, PRIVATE, Silent, numbers, simulation
from tests.simulations.test_bad_input import make_lab


def figures(out: Path) -> list[dict[str, Any]]:
    """The rounds without what depends on the clock."""
    lines = [json.loads(line) for line in (out / "rounds.jsonl").read_text().splitlines()]
    for line in lines:
        del line["seconds"], line["attempt"]
        for entry in line["sites"].values():
            del entry["seconds"]
    return lines


HALVED = {"down": "float16", "up": "float16"}
CENTRED = {"name": "cnn", "width": 2, "encoder": "frozen", "centre": True}


@pytest.mark.parametrize(
    "study",
    [
        {},
        {"privacy": PRIVATE, "transport": HALVED, "model": CENTRED},
        {"privacy": MASKED, "model": CENTRED},
    ],
    ids=["plain", "private, halved, centred", "under masks, centred"],
)
def test_one_worker_and_two_give_the_same_bits(tmp_path: Path, study: dict[str, Any]) -> None:
    for workers in (1, 2):
        config = simulation(study=dict(study), runtime={"workers": workers})
        federate(config, tmp_path / str(workers), Silent())
    assert numbers(tmp_path / "1") == numbers(tmp_path / "2")
    assert figures(tmp_path / "1") == figures(tmp_path / "2")


class Stopped(Exception):
    """Stands for Ctrl-C at the end of a round."""


class StopsAt(Silent):
    """An observer that breaks the run off after the second round of the federation."""

    def round_done(self, plan: PlannedStudy, record: RoundRecord) -> None:
        super().round_done(plan, record)
        if plan.name == "federated" and record.round == 2:
            raise Stopped


@pytest.mark.parametrize("privacy", [{}, PRIVATE, MASKED], ids=["plain", "private", "under masks"])
def test_a_run_broken_off_and_resumed_equals_an_unbroken_one(
    tmp_path: Path, privacy: dict[str, Any]
) -> None:
    study = {"privacy": privacy, "server": {"name": "fedadam"}}
    config = simulation(study=study, baselines=["local_only", "centralised"])
    run(config, tmp_path / "whole", Silent())
    with pytest.raises(Stopped):
        federate(config, tmp_path / "cut", StopsAt())
    again = Silent()
    run(config, tmp_path / "cut", again)
    assert ("federated", 1) not in again.rounds
    assert numbers(tmp_path / "whole") == numbers(tmp_path / "cut")
    assert figures(tmp_path / "whole") == figures(tmp_path / "cut")
    whole, cut = (json.loads((tmp_path / k / "summary.json").read_text()) for k in ("whole", "cut"))
    for key in ("accuracy", "intervals", "sites", "baselines", "confusion", "privacy"):
        assert whole[key] == cut[key], key


def test_a_killed_run_goes_on_from_its_folder(tmp_path: Path) -> None:
    config = simulation(study={"rounds": 6, "privacy": PRIVATE})
    federate(config, tmp_path / "whole", Silent())
    path, out = tmp_path / "config.yaml", tmp_path / "cut"
    path.write_text(dump(config))
    command = [sys.executable, "-m", "hemofed", "simulate", str(path), "--out", str(out)]
    with subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL) as process:
        while not (out / "rounds.jsonl").exists():
            time.sleep(0.01)
            assert process.poll() is None
        os.killpg(process.pid, signal.SIGKILL)
    done = CliRunner().invoke(app, ["simulate", "--resume", str(out)], catch_exceptions=False)
    assert done.exit_code == 0 and "report.html" in done.output
    assert numbers(tmp_path / "whole") == numbers(out)
    assert figures(tmp_path / "whole") == figures(out)


def test_ctrl_c_says_how_to_go_on(tmp_path: Path) -> None:
    path, out = tmp_path / "config.yaml", tmp_path / "run"
    path.write_text(dump(simulation(study={"rounds": 400})))
    command = [sys.executable, "-m", "hemofed", "simulate", str(path), "--out", str(out)]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A test run in the background ignores Ctrl-C, and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:
        while not (out / "rounds.jsonl").exists():
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGINT)
        said, complained = process.communicate(timeout=60)
    assert process.returncode == 130, complained
    assert "--resume" in said
    assert "Traceback" not in complained


@pytest.mark.parametrize(
    "ignored", [{"settings": ["study.rounds=9"]}, {"data": Path("labs")}, {"out": Path("other")}]
)
def test_what_resume_would_ignore_is_refused(tmp_path: Path, ignored: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import typer

        from simulations.cli import simulate
    with pytest.raises(typer.BadParameter, match="leave out --set, --data, --out"):
        simulate(resume=tmp_path, **ignored)


def test_the_ledgers_hold_what_the_summary_says(tmp_path: Path) -> None:
    config = simulation(study={"privacy": PRIVATE})
    summary = run(config, tmp_path, Silent())
    study = load(Study, tmp_path / "study.yaml")
    noise = calibrate(5.0, 1e-4, 0.3, 3 * 2)
    done = Event(
        mechanism="poisson_discrete_gaussian",
        sample_rate=0.3,
        noise_multiplier=noise,
        steps=6,
        unit="image",
    )
    expected = epsilon([done], 1e-4)
    assert 4.9 < expected <= 5.0
    for name, site in summary["sites"].items():
        assert site["epsilon"] == pytest.approx(expected)
        file = open_site(tmp_path / "sites" / name / "site.yaml")
        assert spent_epsilon(file, study) == pytest.approx(expected)


def test_the_summary_has_what_the_readme_promises(tmp_path: Path) -> None:
    config = simulation(baselines=["local_only", "centralised"])
    summary = run(config, tmp_path, Silent())
    for key in (*NAMES[:3], "sites", "baselines", "rounds", "seconds", "seed", "data"):
        assert summary[key] is not None, key
    for key in ("bytes_up", "bytes_down"):
        assert summary[key] is not None, key
    assert summary["data"] == "rendered"
    assert set(summary["baselines"]) == {"local_only", "centralised"}
    assert set(summary["baselines"]["local_only"]["sites"]) == set(summary["sites"])
    total = sum(site["n_test"] for site in summary["sites"].values())
    assert sum(map(sum, summary["confusion"])) == total
    for name in ("config.yaml", "rounds.jsonl", "summary.json", "report.html", "predictions.npz"):
        assert (tmp_path / name).stat().st_size > 0
    assert list((tmp_path / "figures").glob("*.png"))
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["study"]["name"] == "small"


def test_another_config_is_not_run_into_a_used_folder(tmp_path: Path) -> None:
    federate(simulation(), tmp_path, Silent())
    with pytest.raises(ConfigError, match="holds a run of another config"):
        federate(simulation(study={"rounds": 4}), tmp_path, Silent())
    with pytest.raises(ConfigError, match="holds a run of another config"):
        prepare(simulation(study={"rounds": 4}), tmp_path, Silent())
    assert load(Study, tmp_path / "study.yaml").rounds == 3


def test_a_baseline_of_one_site_takes_the_mean_whatever_the_study_bears(tmp_path: Path) -> None:
    robust = {"server": {"aggregation": "median", "byzantine_sites": 1}, "round": {"min_sites": 3}}
    config = simulation(study=robust, baselines=["local_only", "centralised"])
    federated, *baselines = prepare(config, tmp_path, Silent()).plans
    assert federated.study.server == config.study.server
    assert len(baselines) == 4
    for plan in baselines:
        study = load(Study, plan.study_file)
        assert (study.server.aggregation, study.round.min_sites) == ("mean", 1)


def test_the_centralised_baseline_takes_as_many_steps_as_the_site_that_takes_most(
    tmp_path: Path,
) -> None:
    of = prepare(simulation(baselines=["centralised"]), tmp_path, Silent())
    federation, central = of.plans
    most = max(site.count("train") for site in of.sites)
    assert federation.study.training.max_local_steps is None
    assert central.study.training.max_local_steps == -(-most // 8)


def test_patients_of_one_name_at_two_labs_are_one_in_one_place(tmp_path: Path) -> None:
    for name in ("a", "b"):
        make_lab(tmp_path / "labs", name, [("lymphocyte", "train"), ("monocyte", "train")] * 8)
        table = tmp_path / "labs" / name / "cells.csv"
        header, *rows = table.read_text().splitlines()
        named = [f"{row},p{number // 2}" for number, row in enumerate(rows)]
        table.write_text("\n".join([f"{header},patient", *named]))
    config = simulation(
        data={"source": "images", "root": str(tmp_path / "labs")},
        study={
            "cell_types": ["lymphocyte", "monocyte"],
            "privacy": PRIVATE | {"unit": "patient"},
        },
        baselines=["centralised"],
    )
    _, central = prepare(config, tmp_path / "run", Silent()).plans
    cells = open_cells(open_site(central.site_files[0]), central.study)
    assert central.study.cohort["all-sites"].units == len(np.unique(cells.units)) == 8


def test_a_baseline_that_cannot_go_on_does_not_take_the_report_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def serve(plan: PlannedStudy, grid: Grid, observe: Observe) -> None:
        if plan.name.startswith("local_only"):
            raise FederationError("round 1: 0 sound updates")
        served(plan, grid, observe)

    served = engines._serve
    monkeypatch.setattr(engines, "_serve", serve)
    config = simulation(study={"rounds": 1}, baselines=["local_only", "centralised"])
    summary = run(config, tmp_path, Silent())
    assert set(summary["baselines"]) == {"centralised"}
    assert set(summary["baselines_given_up"].values()) == {"round 1: 0 sound updates"}
    assert len(summary["baselines_given_up"]) == 3
    page = (tmp_path / "report.html").read_text()
    assert "local_only-cream could not be trained to its end" in page
