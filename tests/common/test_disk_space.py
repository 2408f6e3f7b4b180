from pathlib import Path

import pytest

from common.disk_space import check_room, lack_of_room
from common.errors import FederationError


def test_a_disk_with_room_lacks_nothing(tmp_path: Path) -> None:
    assert lack_of_room(tmp_path, 1) is None
    check_room(tmp_path, 1)


def test_a_lack_names_the_folder_what_is_needed_and_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(FederationError) as raised:
        check_room(tmp_path, 2**60)
    said = str(raised.value)
    assert str(tmp_path) in said and f"{2**40:,} MiB are needed" in said and "make room" in said
