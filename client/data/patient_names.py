"""How labs name patients in tables and folders, and what they write for an unknown one."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence

from common.text import count

_NOT_KNOWN = frozenset(
    (
        *("", "na", "n/a", "n.a", "#n/a", "<na>", "nan", "nil", "none", "null", "unk", "unknown"),
        *("not known", "anon", "anonymous", "anonymised", "anonymized", "redacted", "removed"),
        *("#ref!", "#value!", "#name", "#null!", "#num!", "#div/0!"),
    )
)
"""What programs and people write into an empty cell of a table, in lower case."""
ALIKE = "in case, leading zeros, a .0, or what joins a word and a number"
"""In what the names that `alike` puts together differ."""
_DASHES = " ?.-\u2010\u2011\u2012\u2013\u2014"
_FOLDER = re.compile(
    r"(patient|case|subject|donor|person)[ _.-]+\S.*"
    r"|(patient|pat|pt|p|case|subject|subj|donor|person)[ _.#-]*\d.*"
)


def is_given(text: str) -> bool:
    """Whether a table's cell says something: it is neither empty nor a mark for that (NA, null, -).

    >>> is_given("P07"), is_given("n/a"), is_given(" - ")
    (True, False, False)
    """
    bare = text.casefold().strip(_DASHES)
    return bare not in _NOT_KNOWN and not re.fullmatch("x{2,}", bare)


def unknown(patients: Sequence[str]) -> str:
    """A sentence on the images of unknown patients, if others are known; else ""."""
    number = sum(not patient for patient in patients)
    if number in (0, len(patients)):
        return ""
    return (
        f"{count(number, 'image')} of no known patient: a study with unit: patient leaves "
        f"{'it' if number == 1 else 'them'} out"
    )


def is_patient(folder: str) -> bool:
    """Whether a folder's name is like those that labs give one patient's images.

    >>> is_patient("Patient_xx"), is_patient("case 12"), is_patient("P07"), is_patient("blasts")
    (True, True, True, False)
    """
    return bool(_FOLDER.fullmatch(folder.casefold()))


def alike(patients: Iterable[str]) -> list[tuple[str, ...]]:
    """Groups of names that differ in `ALIKE` alone, sorted.

    Such names may mean one patient, written by spreadsheets in several ways: then its cells would
    be protected, and split, as those of several patients.

    >>> alike(["Patient 1", "patient_01", "Patient 2"])
    [('Patient 1', 'patient_01')]
    """
    groups: dict[str, set[str]] = defaultdict(set)
    for patient in patients:
        if patient:
            groups[_bare(patient)].add(patient)
    return sorted(tuple(sorted(group)) for group in groups.values() if len(group) > 1)


def _bare(patient: str) -> str:
    text = "".join(unicodedata.normalize("NFKC", patient).casefold().split())
    joined = re.sub(r"(?<=[^\W\d_])[_.-]+(?=\d)", "", re.sub(r"[.,]0+$", "", text))
    return re.sub(r"(?<!\d)0+(?=\d)", "", joined)
