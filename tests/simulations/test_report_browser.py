"""The report in a real browser: nothing overflows, nothing is fetched, everything is seen."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from common.cells import CELL_TYPES
from simulations.report import write
from tests.simulations import report_run

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The least and the most that a report may have to hold."""
    types = [cell.name for cell in CELL_TYPES]
    long = [f"university-hospital-of-a-town-with-a-long-name-{i:02d}" for i in range(14)]
    contents = {
        "rich": report_run.summary(types=types, sites=long),
        "poor": report_run.summary(private=False, baselines=False, rounds=1, data="images"),
    }
    folder = tmp_path_factory.mktemp("reports")
    return [write(report_run.write(folder / name, part)) for name, part in contents.items()]


@pytest.mark.parametrize("width", [1280, 400])
def test_fits_loads_and_fetches_nothing(browser: Browser, pages: list[Path], width: int) -> None:
    for path in pages:
        page = browser.new_page(viewport={"width": width, "height": 900})
        asked: list[str] = []
        faults: list[str] = []
        page.on("request", lambda request, asked=asked: asked.append(request.url))
        page.on("console", lambda message, faults=faults: faults.append(message.text))
        page.goto(path.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert [url for url in asked if not url.startswith("data:")] == [path.as_uri()]
        assert faults == []
        broken = "[...document.images].filter(i => !i.complete || !i.naturalWidth || !i.alt).length"
        assert page.evaluate(broken) == 0
        outside = (
            "[...document.querySelectorAll('body *')]"
            ".filter(e => !e.closest('.scroll, .frame, pre')"
            f" && e.getBoundingClientRect().right > {width} + 1).map(e => e.outerHTML.slice(0, 80))"
        )
        assert page.evaluate(outside) == []
        captions = page.locator("figure figcaption").all_inner_texts()
        assert len(captions) == page.locator("figure").count() > 0
        assert all(caption.strip() for caption in captions)
        assert page.locator("table").count() == page.locator("table > caption").count()
        page.close()
