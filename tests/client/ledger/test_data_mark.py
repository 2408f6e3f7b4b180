"""One data set has one ledger, whatever homes and caches it is used from."""

import multiprocessing
import os
import shutil
from pathlib import Path

import pytest

from client.data.cache import build, prepare
from client.data.index import scan
from client.data.marks import CACHE_MARK, SOURCE_MARK
from client.ledger.binding import continue_ledger, create_ledger, open_ledger
from client.ledger.data_mark import images_of, marks
from client.ledger.ledger import Ledger
from client.policy.budget import Budget
from client.site import open_site
from common.config.loading import dump
from common.config.study import CellSource, Site
from common.errors import PrivacyError
from common.privacy.lifetime import used
from tests.client.lab import SPENT, make_lab


@pytest.fixture
def first(tmp_path: Path) -> Site:
    """A lab with a ledger, from which something was spent."""
    site = open_site(make_lab(tmp_path / "first"))
    with open_ledger(site) as ledger:
        ledger.debit("a" * 64, 1, 0, SPENT)
    return site


def home(folder: Path, cache: Path, ledger: str = "ledger.sqlite") -> Site:
    """Another home, on the cells of `cache`."""
    folder.mkdir(exist_ok=True)
    site = Site(name="lab", cells=(CellSource(folder=cache),), ledger=Path(ledger))
    (folder / "site.yaml").write_text(dump(site))
    return open_site(folder / "site.yaml")


def images(site: Site) -> Path:
    return site.ledger.parent / "images"


def _same_cache(site: Site, work: Path) -> Path:
    return site.cells[0].folder


def _copied_cache(site: Site, work: Path) -> Path:
    return Path(shutil.copytree(site.cells[0].folder, work / "copy"))


def _other_side(site: Site, work: Path) -> Path:
    return prepare(images(site), 8)


def _other_root(site: Site, work: Path) -> Path:
    return prepare(images(site), 16, cache_root=work / "root")


def _copied_images(site: Site, work: Path) -> Path:
    shutil.copytree(images(site), work / "pictures")
    return prepare(work / "pictures", 16, cache_root=work / "root")


def _other_table(site: Site, work: Path) -> Path:
    """A list of some of the images, in another folder."""
    rows = (images(site) / "cells.csv").read_text().splitlines()
    named = [f"{os.path.relpath(images(site), work)}/{row}" for row in rows[1:10]]
    (work / "list.csv").write_text("\n".join([rows[0], *named]))
    return prepare(work / "list.csv", 16, cache_root=work / "root")


def _rebuilt(site: Site, work: Path) -> Path:
    """Other cells in the cache's place, and then the same ones again, unmarked images."""
    (images(site) / SOURCE_MARK).unlink()
    for _ in range(2):
        table = images(site) / "cells.csv"
        table.write_text("\n".join(reversed(table.read_text().splitlines()[1:])))
        table.write_text(f"path,label,patient\n{table.read_text()}")
        build(scan(images(site)), site.cells[0].folder, 16)
    return site.cells[0].folder


def _read_only_images(site: Site, work: Path) -> Path:
    """As if the images' folder had never taken a mark: other caches of them speak."""
    (images(site) / SOURCE_MARK).unlink()
    return prepare(images(site), 8, cache_root=work / "root")


@pytest.mark.parametrize(
    "again",
    [
        _same_cache,
        _copied_cache,
        _other_side,
        _other_root,
        _copied_images,
        _other_table,
        _rebuilt,
        _read_only_images,
    ],
)
def test_cells_get_no_second_ledger(first: Site, tmp_path: Path, again) -> None:  # type: ignore[no-untyped-def]
    work = tmp_path / "work"
    work.mkdir()
    second = home(tmp_path / "second", again(first, work))
    with pytest.raises(PrivacyError, match="A data set has one") as refused:
        create_ledger(second)
    assert f"`ledger: {first.ledger}`" in str(refused.value)
    assert not second.ledger.exists()


def test_a_copy_without_what_is_hidden_gets_no_second_ledger(first: Site, tmp_path: Path) -> None:
    """`cp -r types/* pictures`."""
    picture = next(images(first).rglob("*.png"))
    for name in ("myeloblast", "monocyte"):
        (tmp_path / "types" / name).mkdir(parents=True)
        shutil.copy(picture, tmp_path / "types" / name / f"{name}.png")
    lab = home(tmp_path / "lab", prepare(tmp_path / "types", 16, cache_root=tmp_path / "one"))
    create_ledger(lab)[0].close()
    for folder in (tmp_path / "types").glob("[!.]*"):
        shutil.copytree(folder, tmp_path / "pictures" / folder.name)
    copied = prepare(tmp_path / "pictures", 16, cache_root=tmp_path / "other")
    with pytest.raises(PrivacyError, match="A data set has one"):
        create_ledger(home(tmp_path / "second", copied))


def test_a_copy_of_the_ledger_is_none(first: Site, tmp_path: Path) -> None:
    second = home(tmp_path / "second", first.cells[0].folder)
    shutil.copy(first.ledger, second.ledger)
    for attempt in (open_ledger, continue_ledger):
        with pytest.raises(PrivacyError, match="is a copy of"):
            attempt(second)
    open_ledger(first).close()


def test_a_home_copied_whole_spends_nothing(first: Site, tmp_path: Path) -> None:
    shutil.copytree(first.ledger.parent, tmp_path / "second")
    with pytest.raises(PrivacyError, match="is a copy of"):
        open_ledger(open_site(tmp_path / "second" / "site.yaml"))


def test_a_ledger_that_knows_nothing_of_the_cells_is_refused(first: Site, tmp_path: Path) -> None:
    """One that was made behind the marks' back, for the very cells."""
    first.ledger.rename(tmp_path / "kept")
    with Ledger.read(tmp_path / "kept") as ledger:
        fingerprint = ledger.fingerprint
    Ledger.create(first.ledger, fingerprint).close()
    with pytest.raises(PrivacyError, match="is not the ledger of these cells"):
        open_ledger(first)


def test_cells_that_say_nothing_are_refused(first: Site) -> None:
    (first.cells[0].folder / CACHE_MARK).unlink()
    with pytest.raises(PrivacyError, match="site ledger rebind"):
        open_ledger(first)
    continue_ledger(first)[0].close()
    open_ledger(first).close()


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"ledger": 3, "identity": ""}'])
def test_a_damaged_mark_stops(first: Site, text: str) -> None:
    (first.cells[0].folder / CACHE_MARK).write_text(text)
    for attempt in (open_ledger, continue_ledger, create_ledger):
        with pytest.raises(PrivacyError, match="cannot be read"):
            attempt(first)


def test_a_ledger_that_is_gone_is_restored_not_made_anew(first: Site, tmp_path: Path) -> None:
    first.ledger.rename(tmp_path / "backup")
    with pytest.raises(PrivacyError, match="missing"):
        open_ledger(first)
    with pytest.raises(PrivacyError, match="Restore it from a backup"):
        create_ledger(first)
    with pytest.raises(PrivacyError, match="Restore it from a backup"):
        create_ledger(home(tmp_path / "second", first.cells[0].folder))
    (tmp_path / "backup").rename(first.ledger)
    with open_ledger(first) as ledger:
        assert ledger.events() == (SPENT,)


def test_a_ledger_may_move(first: Site, tmp_path: Path) -> None:
    moved = home(tmp_path / "second", first.cells[0].folder)
    first.ledger.rename(moved.ledger)
    with pytest.raises(PrivacyError, match="If it was moved"):
        open_ledger(moved)
    continue_ledger(moved)[0].close()
    open_ledger(moved).close()
    assert {mark.ledger for mark in marks(moved)} == {moved.ledger}


def test_images_that_were_added_continue_the_ledger(first: Site) -> None:
    table = images(first) / "cells.csv"
    shutil.copy(images(first) / "0.png", images(first) / "new.png")
    table.write_text(f"{table.read_text()}\nnew.png,myeloblast,p1")
    grown = home(first.ledger.parent, prepare(images(first), 16))
    with pytest.raises(PrivacyError, match="ledger rebind"):
        open_ledger(grown)
    continue_ledger(grown)[0].close()
    with open_ledger(grown) as ledger:
        assert ledger.events() == (SPENT,)


def test_images_that_cannot_be_written_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from client.ledger import data_mark

    lab = open_site(make_lab(tmp_path / "lab"))
    written = data_mark.write_text

    def refused(path: Path, text: str) -> None:
        if path.name == SOURCE_MARK:
            raise PermissionError(13, "Permission denied")
        written(path, text)

    monkeypatch.setattr(data_mark, "write_text", refused)
    ledger, untold = continue_ledger(lab)
    ledger.close()
    assert untold == [images(lab)]


def test_images_that_are_away_are_named_and_told_once_they_are_back(
    first: Site, tmp_path: Path
) -> None:
    (images(first) / SOURCE_MARK).unlink()
    away = images(first).rename(tmp_path / "away")
    ledger, untold = continue_ledger(first)
    ledger.close()
    assert untold == [images(first)] and not images(first).exists()
    away.rename(images(first))
    ledger, untold = continue_ledger(first)
    ledger.close()
    assert untold == [] and (images(first) / SOURCE_MARK).is_file()


def _spend(home_file: Path, study: str, bound: float) -> None:
    """Debit from the shared ledger, as a home of its own, until its budget ends."""
    site = open_site(home_file)
    with open_ledger(site, budget=Budget(epsilon=bound, delta=1e-5)) as ledger:
        for number in range(60):
            try:
                ledger.debit(study, number, 0, SPENT)
            except PrivacyError as error:
                assert "would use" in str(error)
                return


def test_two_homes_that_spend_at_once_share_one_budget(first: Site, tmp_path: Path) -> None:
    """By path, and with another side; each goes on when the other was told of the ledger."""
    bound = 3.0
    second = home(tmp_path / "second", prepare(images(first), 8), str(first.ledger))
    with pytest.raises(PrivacyError, match="ledger rebind"):
        open_ledger(second)
    continue_ledger(second)[0].close()
    spawn = multiprocessing.get_context("fork")
    files = [first.ledger.parent / "site.yaml", tmp_path / "second" / "site.yaml"]
    workers = [
        spawn.Process(target=_spend, args=(file, letter * 64, bound))
        for file, letter in zip(files, "bc", strict=True)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    with open_ledger(first) as ledger:
        assert ledger.verify() == len(ledger.events()) + 2
        plans = [plan.event for plan in ledger.plans()]
    assert 10 < len(plans) < 120
    assert used(plans, bound, 1e-5) <= 1 < used([*plans, SPENT], bound, 1e-5)


def test_the_images_are_those_of_each_cache_that_can_be_read_as_far_as_they_are_there(
    first: Site, tmp_path: Path
) -> None:
    broken, second = tmp_path / "broken", open_site(make_lab(tmp_path / "second", cells=4))
    broken.mkdir()
    folders = [first.cells[0].folder, broken, second.cells[0].folder]
    both = first.model_copy(update={"cells": tuple(CellSource(folder=each) for each in folders)})
    listed = [
        [images(site), *(images(site) / f"{number}.png" for number in range(cells))]
        for site, cells in ((first, 40), (second, 4))
    ]
    assert list(images_of(both)) == [*listed[0], *listed[1]]
    images(first).rename(tmp_path / "away")
    assert list(images_of(both)) == listed[1]
