"""Whether a file can be written by nobody but its user: what a policy or a ledger says is worth
that much.

Who may write to a folder may put another file in its place, so each folder on the way counts. A
link is followed: the folder that it lies in, what it points to and each folder on the way there are
held to the same.
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from common.errors import ConfigError
from common.text import count, typed

_MOST_LINKS = 40
_MOST_NAMED = 8
"""Places in one message; a folder of images may have thousands."""


def check_ours(*paths: Path) -> None:
    """Raise ConfigError, with what to type, when another user than this one or root may write some
    of `paths`, or put something else there. What is not there is held to its folders alone."""
    places = dict.fromkeys(place for path in paths for place in _on_the_way(path))
    faults = [fault for place in places if (fault := _fault(place))]
    if len(faults) > _MOST_NAMED:
        faults[_MOST_NAMED:] = [f"and {count(len(faults) - _MOST_NAMED, 'place')} more like these"]
    if faults:
        raise ConfigError("; ".join(faults))


def _on_the_way(path: Path) -> Iterator[Path]:
    """The root, each folder and link to `path`, and what is there at last."""
    todo = [path.absolute()]
    for _ in range(_MOST_LINKS):
        if not todo:
            return
        found = todo.pop()
        for place in (*reversed(found.parents), found):
            yield place
            if place.is_symlink():
                rest = found.relative_to(place)
                todo.append(place.parent / os.readlink(place) / rest)
                break
    raise ConfigError(f"{path}: more than {_MOST_LINKS} links one after the other; name the file")


def _fault(place: Path) -> str | None:
    """Who else may write there, and what to type; None: nobody."""
    try:
        status = place.lstat()
    except FileNotFoundError:
        return None
    if status.st_uid not in (os.geteuid(), 0):
        return (
            f"{place}: belongs to user {status.st_uid}, this process to user {os.geteuid()}; run "
            f"it as that user, or type `{typed('chown', os.geteuid(), place)}`"
        )
    # A link's own mode means nothing. In a sticky folder, like /tmp, nobody moves another's files.
    loose = status.st_mode & 0o022 and not stat.S_ISLNK(status.st_mode)
    if loose and not (stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX):
        return (
            f"{place}: mode {stat.S_IMODE(status.st_mode):04o} lets other users write it; type "
            f"`{typed('chmod', 'go-w', place)}`, and look whether what is there is yours"
        )
    return None
