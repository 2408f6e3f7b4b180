"""Who else may write a file is noticed wherever on the way to it they could put another."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import ConfigError
from common.file_permissions import check_ours
from common.files import make_folder, replacing, write_text

LOOSE = (0o020, 0o002, 0o022)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    write_text(tmp_path / "a" / "b" / "policy.yaml", "epsilon: 1")
    return tmp_path / "a" / "b" / "policy.yaml"


@pytest.mark.parametrize("umask", [0o000, 0o002, 0o022, 0o077])
def test_what_is_written_is_its_users_alone_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        write_text(tmp_path / "x" / "y" / "file", "")
        with replacing(tmp_path / "x" / "second") as temporary:
            temporary.write_bytes(b"")
        make_folder(tmp_path / "x" / "z")
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "x").rglob("*")}
    assert modes == {"y": 0o700, "file": 0o600, "second": 0o600, "z": 0o700}
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o700


def test_a_file_of_our_own_passes_and_one_that_is_not_there(file: Path) -> None:
    check_ours(file, file.parent, file.with_name("missing"), file.parent / "no" / "folder")


@pytest.mark.parametrize("mode", LOOSE)
@pytest.mark.parametrize("up", [0, 1, 2])
def test_who_may_write_it_or_a_folder_on_the_way_is_named(file: Path, mode: int, up: int) -> None:
    place = (file, *file.parents)[up]
    place.chmod(0o700 | mode)
    with pytest.raises(ConfigError, match=rf"{place}: mode 07\d\d .*`chmod go-w {place}`"):
        check_ours(file)
    place.chmod(0o700)
    check_ours(file)


@pytest.mark.parametrize(
    ("places", "named", "rest"),
    [(7, 7, ""), (8, 8, ""), (9, 8, "and 1 place more"), (11, 8, "and 3 places more")],
)
def test_at_most_eight_places_are_named_and_the_rest_counted(
    tmp_path: Path, places: int, named: int, rest: str
) -> None:
    files = [tmp_path / str(number) for number in range(places)]
    for file in files:
        write_text(file, "")
        file.chmod(0o666)
    with pytest.raises(ConfigError) as refused:
        check_ours(*files)
    said = str(refused.value)
    assert [f"{file}: mode" in said for file in files] == [at < named for at in range(places)]
    assert said.endswith(f"; {rest} like these" if rest else "is yours")


def test_a_sticky_folder_moves_nobodys_files(file: Path) -> None:
    file.parent.chmod(0o1777)
    check_ours(file)


@pytest.mark.parametrize("up", [0, 1, 2])
def test_what_belongs_to_somebody_else_is_theirs_to_change(
    file: Path, up: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.geteuid() == 0:
        os.chown((file, *file.parents)[up], 12345, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(ConfigError, match=r"belongs to user \d+, this process to user \d+; run it"):
        check_ours(file)


def test_what_is_roots_is_as_good_as_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    check_ours(Path("/usr/bin"))


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a file away")
def test_what_is_another_systems_users_is_not(file: Path) -> None:
    os.chown(file, 1, -1)
    with pytest.raises(ConfigError, match="belongs to user 1, this process to user 0"):
        check_ours(file)


@given(mode=st.integers(0, 0o777))
def test_a_file_passes_exactly_when_nobody_else_may_write_it(
    tmp_path_factory: pytest.TempPathFactory, mode: int
) -> None:
    file = tmp_path_factory.mktemp("modes") / "file"
    write_text(file, "")
    file.chmod(mode)
    if mode & 0o022:
        with pytest.raises(ConfigError, match="lets other users write it"):
            check_ours(file)
    else:
        check_ours(file)


def test_a_link_is_followed_and_each_folder_on_its_way_counts(tmp_path: Path, file: Path) -> None:
    for folder in ("home", "between", "loose"):
        (tmp_path / folder).mkdir(mode=0o700)
    (tmp_path / "home" / "policy.yaml").symlink_to(Path("..") / "between" / "link")
    (tmp_path / "between" / "link").symlink_to(tmp_path / "loose" / ".." / "a" / "b" / file.name)
    link = tmp_path / "home" / "policy.yaml"
    check_ours(link)
    for place in (file, file.parent, tmp_path / "between", tmp_path / "loose", tmp_path / "home"):
        place.chmod(0o722)
        with pytest.raises(ConfigError, match=rf"{place.name}: mode 0722"):
            check_ours(link)
        place.chmod(0o700)


def test_links_without_end_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(ConfigError, match="more than 40 links"):
        check_ours(tmp_path / "a")
