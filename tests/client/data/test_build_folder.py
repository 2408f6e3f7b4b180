"""A folder made by many at once is made by one, whole, and nothing else is left."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from client.data.build_folder import publish, workshop


def test_each_folder_is_made_by_one_builder(tmp_path: Path) -> None:
    made: Counter[str] = Counter()

    def build(_: int) -> None:
        for at in range(60):
            folder = tmp_path / str(at)
            with workshop(folder) as temporary:
                if not folder.exists():
                    assert [path.name for path in temporary.iterdir()] == ["lock"]
                    (temporary / "content").write_text("whole")
                    made[folder.name] += 1
                    publish(temporary, folder)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(build, range(6)))
    assert made == {str(at): 1 for at in range(60)}
    assert {path.name for path in tmp_path.iterdir()} == set(made)
    assert all([p.name for p in (tmp_path / name).iterdir()] == ["content"] for name in made)


def test_what_is_not_published_is_removed(tmp_path: Path) -> None:
    with pytest.raises(KeyError), workshop(tmp_path / "out") as temporary:
        (temporary / "content").write_text("half")
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_what_was_there_gives_way_as_a_whole(tmp_path: Path) -> None:
    (tmp_path / "out/below").mkdir(parents=True)
    (tmp_path / "out/below/old").touch()
    with workshop(tmp_path / "out") as temporary:
        (temporary / "content").write_text("whole")
        assert (tmp_path / "out/below/old").exists()
        publish(temporary, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["content", "out"]
