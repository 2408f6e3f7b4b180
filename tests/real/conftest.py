"""Real cells from five labs, where they are at hand."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_cells() -> Path:
    """Folder with one folder a lab: HEMOFED_DATA, else ../shared/cells beside the repository."""
    given = os.environ.get("HEMOFED_DATA")
    folder = Path(given) if given else Path(__file__).parents[3] / "shared/cells"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here; name the labs' folder in HEMOFED_DATA")
    return folder
