"""`hemofed site ledger`: the same answers for people and for programs."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from client.data.cache import prepare
from client.ledger.ledger import Ledger
from common.errors import PrivacyError
from common.privacy.accounting import Event, epsilon
from common.privacy.lifetime import left

if TYPE_CHECKING:
    from click.testing import Result

EVENT = Event(
    mechanism="poisson_discrete_gaussian",
    sample_rate=1.0,
    noise_multiplier=20.0,
    steps=2,
    unit="patient",
)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[..., "Result"]:
    """Run `hemofed site ledger ...` in this process."""
    monkeypatch.setenv("COLUMNS", "160")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        from typer.testing import CliRunner

        from client.ledger.cli import app
        from client.site import open_site  # noqa: F401  Flower warns when it is imported
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A site.yaml with four cells."""
    add_cells(tmp_path, 4)
    return tmp_path / "site.yaml"


def add_cells(folder: Path, count: int) -> None:
    rng = np.random.default_rng(count)
    for number in range(count):
        path = folder / "images" / ("basophil", "monocyte")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(path)
    cache = prepare(folder / "images", 16, cache_root=folder / "cache")
    (folder / "site.yaml").write_text(f"name: lab\ncells: [{{folder: {cache}}}]\n")


def test_each_command_takes_the_home_its_site_yaml_or_the_file(
    command: Callable[..., "Result"], site: Path
) -> None:
    home, file = site.parent, site.parent / "ledger.sqlite"
    assert "made; head" in command("create", home).output
    assert "is the ledger of these cells" in command("rebind", home).output
    shown = {command("show", where, "--json").stdout for where in (home, site, file)}
    assert len(shown) == 1 and json.loads(shown.pop())["rows"] == 1
    assert {"1 row, all sound" in command("verify", where).output for where in (home, site)} == {
        True
    }
    assert "site.yaml" in str(command("show", home / "images").exception)


def test_a_ledger_is_made_once_and_shown(command: Callable[..., "Result"], site: Path) -> None:
    assert command("create", site).exit_code == 0
    again = command("create", site)
    assert isinstance(again.exception, PrivacyError)
    assert "is these cells' ledger already, and none is made anew" in str(again.exception)
    path = site.parent / "ledger.sqlite"
    with Ledger.read(path) as ledger:
        for number in range(1, 4):
            ledger.debit("a" * 64, number, 0, EVENT)
        ledger.debit("b" * 64, 1, 0, EVENT)
        ledger.debit("b" * 64, 1, 1, EVENT)
        head = ledger.head
    shown = json.loads(command("show", site, "--json", "--lifetime", "5").stdout)
    spent = epsilon([EVENT] * 5, 1e-5)
    assert shown["epsilon"] == spent and shown["unprotected"] == 0
    assert shown["left"] == left([EVENT] * 5, 5, 1e-5)
    assert 0 < shown["left"] < 5, "what is left is what the gate lets through"
    assert [(s["rounds"], s["attempts"], s["steps"]) for s in shown["studies"]] == [
        (3, 3, 6),
        (1, 2, 4),
    ]
    assert shown["head"] == head and shown["unit"] == "patient" and shown["rows"] == 6
    assert shown["curve"][-1] == [5, spent]
    text = command("show", path).stdout
    assert "aaaaaaaaaaaa" in text and "one patient, with all images, more" in text and head in text


def test_what_left_without_privacy_is_shown_as_what_it_is(
    command: Callable[..., "Result"], site: Path
) -> None:
    command("create", site)
    with Ledger.read(site.parent / "ledger.sqlite") as ledger:
        ledger.debit("a" * 64, 1, 0, EVENT)
        ledger.note_unprotected("a" * 64, -3, 0)
        for number in (1, 2):
            ledger.note_unprotected("b" * 64, number, 0)
    shown = json.loads(command("show", site, "--json", "--lifetime", "5").stdout)
    assert [study["unprotected"] for study in shown["studies"]] == [1, 2]
    assert [study["attempts"] for study in shown["studies"]] == [2, 2]
    assert shown["unprotected"] == 3 and shown["epsilon"] == epsilon([EVENT], 1e-5)
    assert shown["left"] == left([EVENT], 5, 1e-5)
    text = command("show", site).stdout
    cells = [cell.strip() for cell in text.replace("┃", "│").split("│")]
    assert f"{epsilon([EVENT], 1e-5):.4g} + without privacy: unbounded (1)" in cells
    assert "without privacy: unbounded (2)" in cells
    assert "3 answers left WITHOUT privacy: unbounded" in text


def test_a_sites_ledger_is_shown_by_its_own_policy(
    command: Callable[..., "Result"], site: Path
) -> None:
    command("create", site)
    (site.parent / "policy.yaml").write_text(
        "{lifetime_epsilon: 6, study_epsilon: 3, delta: 1.0e-4}"
    )
    with Ledger.read(site.parent / "ledger.sqlite") as ledger:
        for number in (0, 1, 2, -3, -4, -5):
            ledger.debit("a" * 64, number, 0, EVENT)
    shown = json.loads(command("show", site, "--json").stdout)
    assert shown["delta"] == 1e-4 and shown["epsilon"] == epsilon([EVENT] * 6, 1e-4)
    assert shown["left"] == left([EVENT] * 6, 6, 1e-4)
    (study,) = shown["studies"]
    assert (study["rounds"], study["evaluations"], study["statistics"]) == (2, 3, 1)


def test_an_empty_ledger_is_shown(command: Callable[..., "Result"], site: Path) -> None:
    command("create", site)
    result = command("show", site)
    assert result.exit_code == 0 and "epsilon 0 at delta 1e-05" in result.stdout


def test_verify_tells_sound_from_damaged(command: Callable[..., "Result"], site: Path) -> None:
    command("create", site)
    path = site.parent / "ledger.sqlite"
    sound = json.loads(command("verify", site, "--json").stdout)
    assert sound["sound"] and sound["rows"] == 1
    assert command("verify", path, "--head", sound["head"]).exit_code == 0
    older = command("verify", path, "--head", "0" * 64)
    assert isinstance(older.exception, PrivacyError) and "older" in str(older.exception)
    path.write_bytes(path.read_bytes()[:5000])
    assert isinstance(command("verify", path).exception, PrivacyError)


def test_verify_of_a_site_finds_another_data_sets_ledger(
    command: Callable[..., "Result"], site: Path
) -> None:
    Ledger.create(site.parent / "ledger.sqlite", "0" * 64).close()
    assert command("verify", site.parent / "ledger.sqlite").exit_code == 0
    found = command("verify", site)
    assert isinstance(found.exception, PrivacyError) and "is the ledger of" in str(found.exception)


def test_new_images_continue_the_ledger(command: Callable[..., "Result"], site: Path) -> None:
    command("create", site)
    with Ledger.read(site.parent / "ledger.sqlite") as ledger:
        ledger.debit("a" * 64, 0, 0, EVENT)
        before = ledger.fingerprint
    assert command("rebind", site).exit_code == 0
    add_cells(site.parent, 6)
    assert command("rebind", site).exit_code == 0
    with Ledger.read(site.parent / "ledger.sqlite") as ledger:
        assert ledger.fingerprint != before
        assert ledger.events() == (EVENT,)
        assert ledger.verify() == 3
