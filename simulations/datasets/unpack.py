"""Unpacks images from an untrusted zip into class folders."""

import shutil
import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from client.data.decoding.formats import IMAGE_SUFFIXES
from common.cell_types import resolve
from common.errors import DataError


def unpack(archive: Path, folder: Path) -> int:
    """Write each image of `archive` to `folder`/<class>/<file name>; how many there were.

    The class is the folder that holds the image in the archive, or the archive's own name. What
    macOS adds (`__MACOSX`, `._*`), hidden files and what is no image are passed over. All names
    are checked before anything is written. Raises DataError: not a zip, damaged, a name that leads
    out of the folder, a link, two files of one name, an unknown class, too little room.
    """
    try:
        with zipfile.ZipFile(archive) as content:
            members = _members(content, archive)
            _refuse_without_room(folder, sum(info.file_size for info in members.values()))
            for target, info in members.items():
                _extract(content, info, folder / target)
            return len(members)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise DataError(f"{archive}: is not a whole zip ({error})") from error
    except OSError as error:
        raise DataError(f"{archive}: cannot be unpacked ({error.strerror or error})") from error


def _members(content: zipfile.ZipFile, archive: Path) -> dict[str, zipfile.ZipInfo]:
    """Return path below the folder -> image, for all images that are to be written."""
    members: dict[str, zipfile.ZipInfo] = {}
    for info in content.infolist():
        path = _checked(info, archive)
        if info.is_dir() or _is_junk(path) or path.suffix.lower() not in IMAGE_SUFFIXES:
            continue
        label = path.parent.name or archive.stem
        try:
            target = f"{resolve(label)}/{path.name}"
        except DataError as error:
            raise DataError(f"{archive}: {info.filename}: {error}") from None
        if target in members:
            raise DataError(f"{archive}: {info.filename} and {members[target].filename} collide")
        members[target] = info
    return members


def _checked(info: zipfile.ZipInfo, archive: Path) -> PurePosixPath:
    """Return the member's path. Raises DataError if it leaves the folder or is no plain file."""
    path = PurePosixPath(info.filename)
    # zipfile cuts a name at a NUL byte, and leaves a backslash in it on Linux.
    odd = "\\" in info.orig_filename or "\0" in info.orig_filename or ":" in info.filename
    if odd or path.is_absolute() or ".." in path.parts:
        raise DataError(
            f"{archive}: has the name {info.orig_filename!r}, which leads out of the folder; "
            "nothing was unpacked. This is not the file that was published"
        )
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise DataError(f"{archive}: {info.filename!r} is a link or device; nothing was unpacked")
    return path


def _is_junk(path: PurePosixPath) -> bool:
    return any(part == "__MACOSX" or part.startswith(".") for part in path.parts)


def _refuse_without_room(folder: Path, needed: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DataError(f"{folder}: {needed / 1e9:.2f} GB are needed, {free / 1e9:.2f} GB are free")


def _extract(content: zipfile.ZipFile, info: zipfile.ZipInfo, target: Path) -> None:
    """Write one file; until it is whole its name is hidden, so that an index ignores it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part")
    try:
        with content.open(info) as source, part.open("wb") as file:
            shutil.copyfileobj(source, file, 1 << 18)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
