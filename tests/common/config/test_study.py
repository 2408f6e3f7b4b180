import math
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from common.config.loading import CONFIGS, dump, find, load, merge, override, parse, read_study
from common.config.study import Participant, Site, Study
from common.errors import ConfigError


def write(folder: Path, text: str) -> Path:
    path = folder / "study.yaml"
    path.write_text(text)
    return path


def test_a_misspelt_key_is_named_with_its_place_and_the_nearest_known_one(tmp_path: Path) -> None:
    path = write(tmp_path, "name: a\ntraining: {learning_rte: 0.1}\n")
    with pytest.raises(ConfigError) as caught:
        load(Study, path)
    assert str(path) in str(caught.value)
    assert "training.learning_rte" in str(caught.value)
    assert "'learning_rate'" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: a\nprivacy: {epsilon: -1}", "privacy.epsilon"),
        ("name: a\nprivacy: {epsilon: .nan}", "privacy.epsilon"),
        ("name: a\nprivacy: {sample_rate: 1.5}", "less than or equal to 1"),
        ("name: a\nrounds: 0", "greater than or equal to 1"),
        ("name: ../a", "name"),
        ("name: a\ncell_types: [myeloblast, myeloblst]", "nearest: myeloblast"),
        ("name: a\ncell_types: [myeloblast]", "two or more"),
        ("name: a\nmodel: {name: resnet}", "resnet18"),
        ("name: a\ntraining: {class_prior: {lymphocyt: 3}}", "class_prior: 'lymphocyt' is not"),
        (
            "name: a\ncohort: {b: {}, c: {role: test}}\nround: {min_sites: 2}",
            "min_sites=2: no round would ever begin; sites of the cohort that train: 1",
        ),
        (
            "name: a\ntraining: {augment: false}\nprivacy: {mode: local, augmentations: 2}",
            "all views of an image are the same",
        ),
        ("rounds: 3", "name"),
        ("name: a\nserver: {aggregation: median}", "give both, or neither"),
        ("name: a\nserver: {byzantine_sites: 1}", "give both, or neither"),
        (
            "name: a\nserver: {aggregation: krum, byzantine_sites: 2}\nround: {min_sites: 6}",
            "needs 7 updates a round; set round.min_sites to 7",
        ),
        (
            "name: a\nserver: {aggregation: median, byzantine_sites: 1}\nround: {min_sites: 3}\n"
            "cohort: {a: {}, b: {}, c: {role: test}}",
            "2 sites train",
        ),
    ],
)
def test_a_value_out_of_range_is_named_with_its_bound(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match="study.yaml") as caught:
        load(Study, write(tmp_path, text))
    assert said in str(caught.value)


@pytest.mark.parametrize("text", ["- a\n- b", "a: [1", "just words"])
def test_what_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="study.yaml"):
        load(Study, write(tmp_path, text))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load(Study, tmp_path / "none.yaml")


def test_what_is_dumped_is_read_back_the_same(tmp_path: Path) -> None:
    study = Study(name="a", seed=3, cohort={"x": Participant(units=10)})
    again = load(Study, write(tmp_path, dump(study)))
    assert again == study
    assert again.digest == study.digest


def test_the_digest_changes_with_every_field_and_not_with_the_order_of_keys() -> None:
    base = {"name": "a", "rounds": 3, "privacy": {"epsilon": 2.0, "delta": 1e-6}}
    digest = parse(Study, base, "test").digest
    backwards = {"privacy": {"delta": 1e-6, "epsilon": 2.0}, "rounds": 3, "name": "a"}
    assert parse(Study, backwards, "test").digest == digest
    for change in ("seed=1", "privacy.epsilon=2.1", "cohort.x.units=5", "model.width=8"):
        assert parse(Study, override(base, change), "test").digest != digest


def test_a_study_cannot_be_changed() -> None:
    study = Study(name="a")
    with pytest.raises(ValueError, match="frozen"):
        study.rounds = 4  # type: ignore[misc]


@pytest.mark.parametrize(
    "path", sorted((CONFIGS / "studies").glob("*.yaml")), ids=lambda path: path.stem
)
def test_every_shipped_study_can_be_proposed(path: Path) -> None:
    study = load(Study, path)
    assert study.description and study.privacy.mode != "none"
    training = [member for member in study.cohort.values() if member.role == "train"]
    assert len(training) >= study.round.min_sites and all(member.units for member in training)


def test_statistics_are_of_mode_distributed_alone() -> None:
    for mode in ("none", "local"):
        with pytest.raises(ConfigError, match=f"statistics_epsilon=0.5 in mode {mode}"):
            parse(Study, {"name": "a", "privacy": {"mode": mode, "statistics_epsilon": 0.5}}, "t")
    privacy = {"mode": "distributed", "local_steps": 1}
    plain, asked = (
        parse(Study, {"name": "a", "privacy": privacy | more}, "test")
        for more in ({"statistics_epsilon": None}, {"statistics_epsilon": 0.5})
    )
    assert plain.digest != asked.digest
    assert "statistics_epsilon" not in plain.model_dump_json(), "an approval of it stays valid"
    assert parse(Study, asked.model_dump(mode="json"), "test") == asked


def test_a_site_needs_cells() -> None:
    with pytest.raises(ConfigError, match="cells"):
        parse(Site, {"name": "a", "cells": []}, "test")


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_override_reads_numbers_as_yaml_writes_them(value: float) -> None:
    changed = override({"a": {"b": 1, "c": 2}}, f"a.b={yaml.safe_dump(value).split()[0]}")
    assert math.isclose(changed["a"]["b"], value)
    assert changed["a"]["c"] == 2


@pytest.mark.parametrize("text", ["a", "=3", "a=[1"])
def test_override_refuses_what_is_no_assignment(text: str) -> None:
    with pytest.raises(ConfigError, match="--set"):
        override({}, text)


def test_merge_changes_neither_argument() -> None:
    base = {"a": {"b": 1}, "c": 2}
    assert merge(base, {"a": {"d": 3}}) == {"a": {"b": 1, "d": 3}, "c": 2}
    assert base == {"a": {"b": 1}, "c": 2}


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("rounds=0", "--set rounds=0: Input should be greater than or equal to 1 (value: 0)"),
        ("rouns=3", "--set rouns=3: unknown key; did you mean 'rounds'?"),
        ("privacy={epsilon: -1}", "--set privacy={epsilon: -1}: Input should be greater than 0"),
        ("rounds.x=3", "rounds: Input should be a valid integer; changed there: --set rounds.x=3"),
    ],
)
@pytest.mark.parametrize("nested", [False, True], ids=["study", "simulation"])
def test_a_fault_that_was_set_is_laid_on_the_setting(
    tmp_path: Path, setting: str, said: str, nested: bool
) -> None:
    path = write(tmp_path, "study: {name: a}" if nested else "name: a")
    with pytest.raises(ConfigError) as caught:
        read_study(path, ["seed=3", setting])
    assert f"  {said}" in str(caught.value)
    assert "study.yaml, changed by --set: 1 wrong" in str(caught.value)
    assert "seed=3" not in str(caught.value)


def test_the_files_own_fault_is_not_laid_on_a_setting(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\n  rounds: Input should be .* \(value: 0\)$"):
        read_study(write(tmp_path, "name: a\nrounds: 0"), ["seed=3"])


def test_a_fault_of_a_whole_mapping_does_not_print_it() -> None:
    content = {"name": "quickstart", "cell_types": ["basofil", "monocyte"]}
    with pytest.raises(ConfigError) as caught:
        parse(Study, content, "test")
    assert "basofil" in str(caught.value)
    assert "quickstart" not in str(caught.value) and "Value error" not in str(caught.value)


def test_a_config_that_is_not_there_lists_the_shipped_ones() -> None:
    assert find("quickstart", "simulations").is_file()
    with pytest.raises(ConfigError, match="nosuch: no such file.*five_labs, .*quickstart"):
        find("nosuch", "simulations")


def test_a_key_that_is_there_twice_is_refused_where_it_stands(tmp_path: Path) -> None:
    path = write(tmp_path, "name: a\nrounds: 3\ntraining:\n  momentum: 0.1\n  momentum: 0.2\n")
    with pytest.raises(ConfigError, match=r"'momentum' is there twice(.|\n)*line 5"):
        load(Study, path)
    path = write(tmp_path, "name: a\ntraining: &one {momentum: 0.1}\nserver: {<<: {ema: 0.5}}\n")
    assert load(Study, path).server.ema == 0.5


def test_a_folder_does_not_stand_in_the_way_of_a_shipped_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mll23").mkdir()
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    assert find("mll23", "simulations") == CONFIGS / "simulations" / "mll23.yaml"
    with pytest.raises(ConfigError, match="mine: no such file"):
        find("mine", "simulations")


def test_variants_that_are_no_mapping_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "name: a\nvariants: [x]\n")
    with pytest.raises(ConfigError, match="variants: expected names"):
        read_study(path, ["variant=x"])
