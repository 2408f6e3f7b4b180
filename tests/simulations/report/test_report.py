"""The report: what it says, and that it says it from the numbers."""

import json
import re
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.axes import Axes

from common.cell_types import CELL_TYPES
from common.errors import DataError
from common.pages.label_placement import spread
from simulations.report import caveats, formatting, page, run_folder, write
from simulations.report.chart import canvas, round_axis
from simulations.report.figures import FIGURES, baselines, cells, epsilon, examples, gains, learning
from tests.simulations.report import report_run


def run_of(folder: Path, **changes: object) -> run_folder.Run:
    return run_folder.read(report_run.write(folder, report_run.summary(**changes)))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a run with privacy and baselines on rendered cells."""
    return write(report_run.write(tmp_path_factory.mktemp("run"), report_run.summary()))


def test_writes_one_self_contained_page_and_every_figure(plain: Path) -> None:
    text = plain.read_text()
    assert plain.name == "report.html"
    assert {path.stem for path in (plain.parent / "figures").glob("*.png")} == set(FIGURES)
    assert not re.search(r"(src|href)=\"(?!data:|#)", text)
    assert "<script" not in text and "@import" not in text
    assert "&lt;b&gt;&amp;&lt;/b&gt;" in text, "the configuration must be escaped"
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", text, re.S)
    assert len(captions) == len(FIGURES) - 1, "the example cells have their own list"
    assert all(len(caption.strip()) > 40 for caption in captions)


def test_same_run_same_bytes(plain: Path, tmp_path: Path) -> None:
    again = write(report_run.write(tmp_path, report_run.summary()))
    assert again.read_bytes() == plain.read_bytes()


def test_rendered_cells_without_privacy_then_images(plain: Path, tmp_path: Path) -> None:
    """Writing again over an older report leaves no figure that does not belong to the run."""
    shutil.copytree(plain.parent / "figures", tmp_path / "figures")
    content = report_run.summary(private=False, data="images", baselines=False)
    text = write(report_run.write(tmp_path, content)).read_text()
    assert "Rendered cells: not real." in plain.read_text()
    assert "ot real" not in text and "endered" not in text
    assert "no ε was spent" in text and "may reveal single cells" in text
    assert "cannot be said" in text and "Federation helped" not in text
    left = {path.stem for path in (tmp_path / "figures").glob("*.png")}
    assert left == set(FIGURES) - {"epsilon", "baselines", "gains"}


@pytest.mark.parametrize(
    ("federated", "local", "said"),
    [(0.7, 0.5, "Federation helped"), (0.5, 0.7, "did not help"), (0.6, 0.61, "changed little")],
)
def test_the_comparison_is_honest(
    tmp_path: Path, federated: float, local: float, said: str
) -> None:
    run = run_of(tmp_path, federated=federated, local=local)
    assert said in baselines.caption(run)


def test_a_frozen_encoder_says_which_features_the_head_saw(tmp_path: Path) -> None:
    content = report_run.summary()
    assert "Features" not in page.trained(run_of(tmp_path / "trained"))
    content["model"] |= {"encoder": "frozen", "quarter_turns": True, "projection": "rendered"}
    run = run_folder.read(report_run.write(tmp_path / "frozen", content))
    said = "of its last layer, the mean over an image's four quarter turns, mapped to fewer by "
    assert page.trained(run)["Features"] == said + "the shipped map"
    content["model"]["centre"] = True
    run = run_folder.read(report_run.write(tmp_path / "centred", content))
    assert page.trained(run)["Features"].endswith(
        "map, less the mean over all sites, found by the first round"
    )


def test_a_hundred_sites_and_a_single_round(tmp_path: Path) -> None:
    content = report_run.summary(sites=[f"site{i}" for i in range(100)], rounds=1)
    page = write(report_run.write(tmp_path, content, examples=0))
    assert "site99" in page.read_text()


def test_sites_and_types_without_test_cells(tmp_path: Path) -> None:
    content = report_run.summary()
    metrics = ("accuracy", "balanced_accuracy", "macro_f1", "ece")
    for name in ("west", "islands"):
        content["sites"][name].update(dict.fromkeys(metrics), intervals={}, n_test=0)
        content["baselines"]["local_only"]["sites"].pop(name, None)
    kind = content["cell_types"][0]
    content["per_class"][kind] = {"precision": None, "recall": None, "f1": None, "support": 0}
    content["confusion"][0] = [0] * len(content["cell_types"])
    folder = report_run.write(tmp_path, content)
    lines = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    for line in lines:
        line["evaluation"]["sites"]["islands"] = dict.fromkeys(metrics)
    (folder / "rounds.jsonl").write_text("\n".join(map(json.dumps, lines)))
    text = write(folder).read_text()
    assert "No test cell of promyelocyte" in text
    assert "None" not in text and "nan" not in re.sub(r"data:[^\"]*", "", text)


def test_replies_left_out_are_named(plain: Path) -> None:
    text = plain.read_text()
    assert "south" in text and "update is not finite" in text


def test_overspent_epsilon_is_said(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    found = epsilon.spent(run)
    assert "not exceeded" in epsilon.caption(run, found, 8.0)
    assert "do not release" in epsilon.caption(run, found, 7.0)


def test_a_model_that_only_guesses_is_called_that(tmp_path: Path) -> None:
    content = report_run.summary(federated=0.1, local=0.1)
    types = len(content["cell_types"])
    content["confusion"] = [[0] * (types - 1) + [10] for _ in range(types)]
    folder = report_run.write(tmp_path, content)
    text = write(folder).read_text()
    assert "no better than guessing (10.0 %)" in text and "the same as the mean" in text
    assert "It answers lymphocyte for 100 % of the cells" in text


def test_gains_name_who_loses() -> None:
    found = [("a", 0.5, 0.7), ("b", 0.6, 0.61), ("c", 0.8, 0.7)]
    text = gains.caption(found, {"a": 100, "b": 7, "c": 30})
    assert "read with care: b." in text
    assert "2 of 3 sites" in text and "a gains the most, 20.0 points" in text
    assert "c (by 10.0 points)" in text


def test_learning_says_whether_it_still_climbs() -> None:
    rounds = list(range(1, 9))
    assert "more rounds" in learning._tail(rounds, [0.1 * r for r in rounds])
    assert "levelled off" in learning._tail(rounds, [0.5] * 8)
    assert "fallen" in learning._tail(rounds, [0.9 - 0.05 * r for r in rounds])


def test_examples_mix_right_and_wrong(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    rows = examples.chosen(run)
    right = run.examples.label[rows] == run.examples.predicted[rows]
    assert len(set(rows)) == len(rows) <= examples.SHOWN
    assert 0 < right.sum() < len(rows)


def test_how_sure_the_chosen_examples_are_is_not_said_of_the_model(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    said = {
        examples.caption(replace(run, examples=replace(run.examples, confidence=sure)), rows)
        for rows in [examples.chosen(run)]
        for sure in (run.examples.confidence, 1 - run.examples.confidence)
    }
    (caption,) = said
    assert "by 4.0 % in the mean (calibration error)" in caption


def test_in_the_examples_the_types_take_turns(tmp_path: Path) -> None:
    types = [cell.name for cell in CELL_TYPES]
    run = run_of(tmp_path, types=types)
    # As the summary keeps them: in the order of the types, a right and a wrong one each; of the
    # last type there are only right ones.
    label = np.repeat(np.arange(len(types)), 2)
    predicted = np.where(np.arange(len(label)) % 2, label, (label + 1) % len(types))
    predicted[-2] = label[-1]
    kept = replace(run.examples, label=label, predicted=predicted)
    rows = examples.chosen(replace(run, examples=kept))
    right = (label == predicted)[rows]
    assert set(label[rows]) == set(label)
    assert len(set(rows)) == len(rows) == examples.SHOWN
    assert right.sum() == (~right).sum() and not right[: len(rows) // 2].any()


def test_no_name_above_an_example_runs_into_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[str] = []
    monkeypatch.setattr(Axes, "set_title", lambda self, text, **_: drawn.append(text))
    types = sorted((cell.name for cell in CELL_TYPES), key=len)
    run = run_of(tmp_path, types=types)
    longest = replace(run.examples, label=np.full(len(run.examples.label), len(types) - 1))
    examples.chart(replace(run, examples=longest))
    lines = [line for text in drawn for line in text.splitlines()]
    assert max(map(len, lines)) <= 22 + len("(is )")


@pytest.mark.parametrize(
    ("evaluated", "ticks"),
    [
        (range(10, 81, 10), [10, 20, 30, 40, 50, 60, 70, 80]),
        (range(1, 61), [10, 20, 30, 40, 50, 60]),
        ([5, 10, 12], [5, 10, 12]),
        ([1], [1]),
        ([], None),
    ],
)
def test_ticks_stand_at_rounds_with_a_point(evaluated: list[int], ticks: list[int] | None) -> None:
    _, axes = canvas(4, 3)
    axes.set_xlim(0, 100)
    round_axis(axes, list(evaluated))
    if ticks is None:
        assert len(axes.get_xticks()) > 2
    else:
        assert axes.get_xticks().tolist() == ticks


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ([10, 10, 10], "All 3 sites are of one size, 10 cells each."),
        ([20, 10], "The largest site, a, holds 67 % of 30 cells; the smallest, b, has 10."),
        ([7], "a holds all 7 cells."),
    ],
)
def test_sizes_of_sites_are_said_as_they_are(sizes: list[int], said: str) -> None:
    assert cells._sizes(list("abc")[: len(sizes)], np.array(sizes)) == said


def test_sites_without_validation_cells_are_said(tmp_path: Path) -> None:
    content = report_run.summary()
    assert caveats.caveats(content) == []
    content["sites"]["south"]["n_validation"] = 0
    assert "south has no validation cells" in caveats.caveats(content)[0]
    for site in content["sites"].values():
        site["n_validation"] = 0
    text = write(report_run.write(tmp_path, content)).read_text()
    assert "No training site has validation cells" in text


@pytest.mark.parametrize("name", ["summary.json", "rounds.jsonl", "config.yaml", "predictions.npz"])
def test_a_missing_or_broken_file_is_named(tmp_path: Path, name: str) -> None:
    report_run.write(tmp_path, report_run.summary())
    (tmp_path / name).unlink()
    with pytest.raises(DataError, match=name):
        write(tmp_path)
    if name != "config.yaml":
        (tmp_path / name).write_text("{\n")
        with pytest.raises(DataError, match=name):
            write(tmp_path)


@settings(max_examples=30)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_labels_are_apart_and_in_order(values: list[float]) -> None:
    placed = sorted(spread(values, 0.05))
    assert all(b - a > 0.05 - 1e-3 for a, b in pairwise(placed))


@given(st.floats(0, 1e15))
def test_sizes_have_at_most_four_figures(octets: float) -> None:
    number, unit = formatting.size(octets).split()
    assert len(number) <= 6 and unit in ("B", "kB", "MB", "GB", "TB")


@pytest.mark.parametrize(("accuracy", "how"), [(0.52, "not above"), (0.63, "not surely above")])
def test_a_model_that_is_no_better_than_the_commonest_type_says_no_more(
    tmp_path: Path, accuracy: float, how: str
) -> None:
    """Below the majority class nothing says that federation helped."""
    content = report_run.summary(federated=accuracy - 0.03, local=0.3, types=report_run.TYPES[:3])
    content["confusion"] = [[10, 10, 0], [5, 52, 5], [0, 9, 9]]
    run = run_folder.read(report_run.write(tmp_path, content))
    said = f"accuracy, {100 * accuracy:.1f} %, is {how} the 62.0 % of naming every test cell"
    caption = baselines.caption(run)
    assert said in caption and "the mean of single sites says little" in caption
    assert "Federation" not in caption and said in caveats.caveats(content)[0]
    text = write(tmp_path).read_text()
    assert text.count(said) >= 3 and "no model: myelocyte always" in text
    assert page.models(run)[-1][1]["accuracy"] == 0.62


def test_the_table_of_sites_tells_of_how_many_patients_the_cells_are(tmp_path: Path) -> None:
    content = report_run.summary()
    content["sites"]["south"]["training_patients"] = 17
    text = write(report_run.write(tmp_path, content)).read_text()
    row = next(line for line in text.splitlines() if line.startswith('<tr><th scope="row">south<'))
    train = content["sites"]["south"]["n_train"]
    assert f"<td>{train:,}</td><td>17</td>" in row


def test_doubts_of_the_privacy_are_said_in_the_page(tmp_path: Path) -> None:
    content = report_run.summary()
    content["privacy"]["doubts"] = ["a step of north has about 4.2 of its 17 patients"]
    assert content["privacy"]["doubts"][0] in write(report_run.write(tmp_path, content)).read_text()


@pytest.mark.parametrize(
    ("sites", "colours", "said"),
    [
        (["a", "b", "c"], {"red": (0.6, 0.5, 0.7)}, "mean red, of 255"),
        (["a", "b", "c"], {}, "The noise hides their mean colour."),
        ([], {}, "asked for once, and no sum of them came about"),
    ],
)
def test_a_page_has_the_statistics_as_far_as_they_are_known(
    tmp_path: Path, sites: list[str], colours: dict[str, tuple[float, ...]], said: str
) -> None:
    content = report_run.summary()
    cells = {content["cell_types"][0]: (1234.4, 1200.0, 1270.0)} if sites else {}
    content["statistics"] = {
        "sites": sites,
        "cells": {name: dict(zip(ESTIMATE, one, strict=True)) for name, one in cells.items()},
        "colours": {name: dict(zip(ESTIMATE, one, strict=True)) for name, one in colours.items()},
    }
    page = write(report_run.write(tmp_path, content)).read_text()
    assert said in " ".join(page.split())
    assert ("1,200 to 1,270" in page) == bool(sites)
    assert ("127.5 to 178.5" in page) == bool(colours)


ESTIMATE = ("value", "low", "high")


def test_a_page_says_who_shared_the_noise(tmp_path: Path) -> None:
    content = report_run.summary()
    content["privacy"] |= {"mode": "distributed", "shares": 3, "colluders": 1, "dropouts": 0}
    said = " ".join(write(report_run.write(tmp_path, content)).read_text().split())
    assert "Each site added 1/√3 of that noise to its sum and hid it under masks" in said
    assert "against the server and 1 site that told it all they know; against all other" in said
    assert "Each site added the whole noise" not in said
