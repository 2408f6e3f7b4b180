"""A real browser for pages: nothing overflows, nothing is fetched, everything is seen."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

_QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
_BROKEN = "[...document.images].filter(i => !i.complete || !i.naturalWidth || !i.alt).length"
_OUTSIDE = """width => [...document.querySelectorAll('body *')]
  .filter(e => !e.closest('.scroll, .frame, pre') && e.getBoundingClientRect().right > width + 1)
  .map(e => e.outerHTML.slice(0, 80))"""


@contextmanager
def chromium() -> Iterator[Browser]:
    """Debian's chromium, headless; skips the test where there is none."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
    if found is None:
        pytest.skip("no chromium on this machine")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=_QUIET)
        yield browser
        browser.close()


def assert_sound(browser: Browser, path: Path, width: int) -> None:
    """Open a page at `width` px and check what holds for every page of hemofed."""
    page = browser.new_page(viewport={"width": width, "height": 900})
    asked: list[str] = []
    said: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    page.goto(path.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert [url for url in asked if not url.startswith("data:")] == [path.as_uri()]
    assert said == []
    assert page.evaluate(_BROKEN) == 0
    assert page.evaluate(_OUTSIDE, width) == []
    captions = page.locator("figure figcaption").all_inner_texts()
    assert len(captions) == page.locator("figure").count()
    assert all(caption.strip() for caption in captions)
    assert page.locator("table").count() == page.locator("table > caption").count() > 0
    page.close()
