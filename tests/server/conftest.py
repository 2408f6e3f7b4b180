"""A SuperLink's state with the sites that are connected to it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.nodes import Setting, connected


@pytest.fixture
def setting(tmp_path: Path) -> Iterator[Setting]:
    with connected(tmp_path) as one:
        yield one
