"""The check's page in a real browser."""

import shutil
from pathlib import Path

from client.data.quality.check import check
from client.data.quality.page import html
from tests.browser import assert_sound, chromium
from tests.client.data import damaged_lab


def test_a_page_with_every_kind_of_trouble(tmp_path: Path) -> None:
    lab = damaged_lab.lab(tmp_path / "lab", each=9)
    first = lab / "eosinophil" / "eosinophil_0000.png"
    long = "a-label-that-a-very-thorough-person-made-up-for-atypical-lymphocytes"
    (lab / long).mkdir()
    for number in range(6):
        shutil.copy(first, lab / long / f"{'x' * 60}_{number}.png")
    (lab / "monocyte" / "cut.png").write_bytes(first.read_bytes()[:900])
    (lab / "monocyte" / "patient").mkdir()
    pages = {"bad": check(lab, reference=lab), "good": check(damaged_lab.lab(tmp_path / "tidy"))}
    with chromium() as browser:
        for name, result in pages.items():
            path = tmp_path / f"{name}.html"
            path.write_text(html(result))
            for width in (1280, 400):
                assert_sound(browser, path, width)
