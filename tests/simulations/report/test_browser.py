"""The report in a real browser."""

from pathlib import Path

import pytest
from playwright.sync_api import Browser

from common.cell_types import CELL_TYPES
from simulations.report import write
from tests.browser import assert_sound, chromium
from tests.simulations.report import report_run

_HINTS = """[...document.querySelectorAll('.scroll')].map(
  table => getComputedStyle(table, '::before').content.replaceAll('"', '').replace('none', ''))"""


def _hints(browser: Browser, path: Path, width: int) -> set[str]:
    """What stands above the tables at `width` px."""
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.goto(path.as_uri())
    return set(page.evaluate(_HINTS))


def test_the_least_and_the_most_that_a_report_may_hold(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    types = [cell.name for cell in CELL_TYPES]
    long = [f"university-hospital-of-a-town-with-a-long-name-{i:02d}" for i in range(14)]
    contents = {
        "rich": report_run.summary(types=types, sites=long),
        "poor": report_run.summary(private=False, baselines=False, rounds=1, data="images"),
    }
    folder = tmp_path_factory.mktemp("reports")
    pages: list[Path] = [
        write(report_run.write(folder / name, part)) for name, part in contents.items()
    ]
    with chromium() as browser:
        for page in pages:
            for width in (1280, 400):
                assert_sound(browser, page, width)
        assert _hints(browser, pages[0], 400) == {"Swipe sideways to see all"}
        assert _hints(browser, pages[0], 1280) == {""}
