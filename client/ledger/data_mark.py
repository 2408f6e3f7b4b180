"""The mark beside a lab's cells that names their ledger: a data set has one, whatever home uses it.

It lies in each cache that a site names. It also lies, where they can be written, in the folder of
the images that the cache was made from, and in each folder below it that holds images: whoever
indexes the images again, at another side or from another home, or copies either, finds it. It holds
the ledger's path and the hash of its first row, which no ledger made later has.

| what is found                                   | what it means                                |
|-------------------------------------------------|----------------------------------------------|
| no mark in a cache                              | its cells are not this ledger's yet: rebind  |
| a mark with another first row                   | the cells have another ledger                |
| this ledger's first row, another file is there  | this file is a copy: two would be spent from |
| this ledger's first row, no file is there       | the ledger was moved: rebind                 |
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from client.data.cache import default_root
from client.data.marks import CACHE_MARK, SOURCE_MARK, holding_folders, image_folders, source_folder
from client.data.store import META, CellCache
from client.ledger.ledger import Ledger
from common.config.study import Site
from common.errors import DataError, PrivacyError
from common.files import write_text


@dataclass(frozen=True, kw_only=True)
class Mark:
    """What the mark at `place` says of the cells' ledger."""

    place: Path
    ledger: Path
    identity: str
    """The hash of the ledger's first row."""


def marks(site: Site) -> list[Mark]:
    """All marks of the site's cells, in their caches and beside the images.

    Raises PrivacyError when a mark cannot be read, DataError when a cache cannot.
    """
    return [mark for place in _places(site) if (mark := _read(place))]


def check_marks(site: Site, ledger: Ledger) -> None:
    """Raise PrivacyError unless each cache has a mark and all marks name `ledger` where it lies."""
    for mark in marks(site):
        if reason := _contradiction(mark, ledger):
            raise PrivacyError(f"{ledger.path}: {reason}")
        if not mark.ledger.exists():
            raise PrivacyError(
                f"{ledger.path}: {mark.place} says that the ledger is at {mark.ledger}, where it "
                "is not. If it was moved, `hemofed site ledger rebind` says so to the cells"
            )
    for source in site.cells:
        if not (source.folder / CACHE_MARK).is_file():
            raise PrivacyError(
                f"{source.folder}: does not say that its ledger is {ledger.path}; tell it by "
                "`hemofed site ledger rebind`"
            )


def check_may_follow(site: Site, ledger: Ledger) -> None:
    """Raise PrivacyError when the site's cells have another ledger, or `ledger` is a copy."""
    for mark in marks(site):
        if reason := _contradiction(mark, ledger):
            raise PrivacyError(f"{ledger.path}: {reason}")


def check_unmarked(site: Site) -> None:
    """Raise PrivacyError when the site's cells have a ledger, or a cache cannot be marked."""
    for mark in marks(site):
        if not mark.ledger.exists():
            raise PrivacyError(
                f"{mark.place}: these cells' ledger is {mark.ledger}, and it is missing: what they "
                "have spent is not known. Restore it from a backup, there or where site.yaml has "
                "it, and run `hemofed site ledger rebind`; none is made anew"
            )
        if site.ledger.exists() and mark.ledger.samefile(site.ledger):
            raise PrivacyError(
                f"{site.ledger}: is these cells' ledger already, and none is made anew; "
                "`hemofed site ledger show` says what is in it"
            )
        raise PrivacyError(
            f"{mark.place}: these cells have a ledger, {mark.ledger}. A data set has one, whatever "
            f"homes it is used from: put `ledger: {mark.ledger}` into this home's site.yaml, then "
            "run `hemofed site ledger rebind`, and both spend from it"
        )
    for source in site.cells:
        if not os.access(source.folder, os.W_OK):
            raise PrivacyError(
                f"{source.folder}: cannot be written, so the cells cannot be told which ledger is "
                "theirs; index them into a folder of this user"
            )


def write_marks(site: Site, ledger: Ledger, path: Path | None = None) -> list[Path]:
    """Mark the site's cells as those of `ledger`.

    Returns the images' folders that are missing or cannot be written. path: where the ledger will
    lie, if it is moved. Each mark is written whole or not at all.
    """
    content = {"ledger": str((path or ledger.path).absolute()), "identity": ledger.identity}
    text = json.dumps(content)
    for source in site.cells:
        write_text(source.folder / CACHE_MARK, text)
    return [base for base, folders in _sources(site).items() if not _told(base, folders, text)]


def _told(base: Path, folders: list[Path], text: str) -> bool:
    """Mark the folder `base` of images and its `folders`; whether it is there and all were marked.

    Folders have marks of their own so that one that is copied elsewhere, say that of one type,
    takes its mark along.
    """
    if not base.is_dir():
        return False
    try:
        for folder in folders:
            if folder.is_dir():
                write_text(folder / SOURCE_MARK, text)
    except OSError:
        return False
    return True


def _contradiction(mark: Mark, ledger: Ledger) -> str | None:
    """Why the mark names another file than `ledger`; None: it names this one."""
    share = f"A data set has one ledger: put `ledger: {mark.ledger}` into site.yaml"
    if mark.identity != ledger.identity:
        return f"is not the ledger of these cells, {mark.place} says; {mark.ledger} is. {share}"
    if mark.ledger.exists() and not mark.ledger.samefile(ledger.path):
        return f"is a copy of {mark.ledger}, which {mark.place} names. {share}"
    return None


def _read(place: Path) -> Mark | None:
    try:
        content = json.loads(place.read_text(encoding="utf-8"))
        return Mark(place=place, ledger=Path(content["ledger"]), identity=str(content["identity"]))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise PrivacyError(
            f"{place}: says which ledger these cells have, and cannot be read ({error}); restore it"
        ) from error


@lru_cache(maxsize=1024)
def _places(site: Site) -> tuple[Path, ...]:
    """Where marks may lie; each process looks once, since a site indexed again is another Site."""
    places: dict[Path, None] = {}
    for source in site.cells:
        cache = CellCache.open(source.folder)
        made_of = Path(cache.meta["source"])
        folders = image_folders(made_of, cache.sources.tolist())
        places |= dict.fromkeys((source.folder / CACHE_MARK, *_alike(source.folder, made_of)))
        places |= dict.fromkeys(folder / SOURCE_MARK for folder in folders)
    return tuple(places)


def images_of(site: Site) -> Iterator[Path]:
    """The images that the site's caches were made from, and before them their folder; only of
    folders that exist and of caches that can be read."""
    for source in site.cells:
        try:
            cache = CellCache.open(source.folder)
        except DataError:
            continue
        base = source_folder(Path(cache.meta["source"]))
        if base.is_dir():
            yield base
            yield from (base / name for name in cache.sources.tolist())


def _sources(site: Site) -> dict[Path, list[Path]]:
    """The folders of images that the site's caches were made from, whether or not they exist; for
    each, itself and the folders below it in which the images lie."""
    found: dict[Path, list[Path]] = {}
    for source in site.cells:
        cache = CellCache.open(source.folder)
        base = source_folder(Path(cache.meta["source"]))
        found.setdefault(base, [base]).extend(holding_folders(base, cache.sources.tolist()))
    return {base: list(dict.fromkeys(folders)) for base, folders in found.items()}


def _alike(cache: Path, made_of: Path) -> Iterator[Path]:
    """Marks of other caches of the same images, beside this cache and in the default root.

    They are needed where the images' folder cannot be written.
    """
    for root in dict.fromkeys((cache.parent, default_root())):
        for meta in sorted(root.glob(f"*/{META}")):
            if (meta.parent / CACHE_MARK).is_file() and _source_of(meta) == source_folder(made_of):
                yield meta.parent / CACHE_MARK


def _source_of(meta: Path) -> Path | None:
    """The images' folder that a cache says it was made from; None where it cannot be read."""
    try:
        return source_folder(Path(json.loads(meta.read_text(encoding="utf-8"))["source"]))
    except (OSError, ValueError, TypeError, KeyError):
        return None
