"""Downloads MLL23 from Zenodo: lists, downloads, checks and unpacks its zips.

Source: Zenodo record 14277609 (DOI 10.5281/zenodo.14277609), CC BY 4.0; 41,621 images of 288 x 288
px, 11.52 px per um, one zip a class, about 9 GB. API: https://developers.zenodo.org/#records
"""

import json
from functools import partial
from pathlib import Path
from typing import Any

from common.errors import DataError
from common.files import write_text
from simulations.datasets.download import Progress, Remote, Retries, download, get
from simulations.datasets.unpack import unpack

MLL23 = "https://zenodo.org/api/records/14277609"
MLL23_UM_PER_PX = 1 / 11.52

_DONE = ".fetched.json"
_DOWNLOADS = ".downloads"


def fetch(
    folder: Path,
    url: str = MLL23,
    retries: Retries | None = None,
    progress: Progress | None = None,
) -> Path:
    """Download the record at `url` to `folder`/<class>/*, one zip at a time.

    An interrupted download is continued. A zip is deleted once its images are unpacked, so that the
    disk space needed is that of the images and one zip.

    Raises:
        DataError: as `listing`, `download` and `unpack` do.
    """
    retries = retries or Retries()
    done = _read_done(folder)
    remotes = listing(url, retries)
    total, before = sum(remote.size for remote in remotes), 0
    for remote in remotes:
        if done.get(remote.name) != remote.md5:
            report = partial(_shift, progress, before, total) if progress else None
            archive = download(remote, folder / _DOWNLOADS, retries, report)
            unpack(archive, folder)
            done[remote.name] = remote.md5
            write_text(folder / _DONE, json.dumps(done, indent=2))
            archive.unlink()
        before += remote.size
    return folder


def _shift(progress: Progress, before: int, total: int, done: int, _: int) -> None:
    """Report the progress of one file as progress of the whole download."""
    progress(before + done, total)


def listing(url: str, retries: Retries) -> list[Remote]:
    """Return the zips of a Zenodo record.

    Raises:
        DataError: there is no such record, or it has an unknown form.
    """
    try:
        files = json.loads(get(url, retries))["files"]
        remotes = [_remote(file) for file in files]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{url}: is not a Zenodo record in the known form ({error!r})") from error
    zips = [remote for remote in remotes if remote.name.lower().endswith(".zip")]
    if not zips:
        raise DataError(f"{url}: lists no zip")
    return zips


def _remote(file: dict[str, Any]) -> Remote:
    name = file["key"]
    kind, _, digest = file["checksum"].partition(":")
    if kind != "md5":
        raise ValueError(f"{name}: checksum of kind {kind}, expected md5")
    if name != Path(name).name or name.startswith(".") or "\\" in name:
        raise ValueError(f"{name!r} is not a plain file name")
    return Remote(name=name, url=file["links"]["self"], size=int(file["size"]), md5=digest)


def _read_done(folder: Path) -> dict[str, str]:
    """Return name -> MD5 of the zips whose images are already in `folder`."""
    try:
        done = json.loads((folder / _DONE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise DataError(f"{folder / _DONE}: damaged ({error}); delete it to check anew") from error
    return dict(done)
