"""What several of the client's tests stand on."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.client.lab import make_lab
from tests.client.service.test_message_audit import Setting


@pytest.fixture
def setting(tmp_path: Path) -> Iterator[Setting]:
    one = Setting(make_lab(tmp_path / "lab").parent, tmp_path / "server")
    one.home.state.mkdir()
    yield one
    one.log.close()
    one.server_log.close()
