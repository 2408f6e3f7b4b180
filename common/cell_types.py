"""The 18 cell types of MLL23, in their fixed order, and other data sets' names for them.

Source: MLL23, Zenodo record 14277609; the folder names are the data set's own. A label is stored
as a cell type's position in `CELL_TYPES`.
"""

import difflib
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Literal

from pydantic import AfterValidator

from common.errors import DataError

Lineage = Literal["myeloid", "lymphoid", "none"]
Maturity = Literal["blast", "precursor", "mature", "none"]

SKIP = "skip"
"""What a site's label map says of a name whose images are to be left out."""


@dataclass(frozen=True, kw_only=True)
class CellType:
    """One peripheral-blood cell type."""

    name: str
    lineage: Lineage
    maturity: Maturity


def _myeloid(name: str, maturity: Maturity) -> CellType:
    return CellType(name=name, lineage="myeloid", maturity=maturity)


def _lymphoid(name: str) -> CellType:
    return CellType(name=name, lineage="lymphoid", maturity="mature")


CELL_TYPES: tuple[CellType, ...] = (
    _myeloid("myeloblast", "blast"),
    _myeloid("promyelocyte", "precursor"),
    _myeloid("promyelocyte_atypical", "precursor"),
    _myeloid("myelocyte", "precursor"),
    _myeloid("metamyelocyte", "precursor"),
    # A band circulates in healthy blood and is counted with the neutrophils (ICSH 2015, 4.1).
    _myeloid("neutrophil_band", "mature"),
    _myeloid("neutrophil_segmented", "mature"),
    _myeloid("eosinophil", "mature"),
    _myeloid("basophil", "mature"),
    _myeloid("monocyte", "mature"),
    # Erythroid: of the common myeloid progenitor, so myeloid in the two-way division.
    _myeloid("normoblast", "precursor"),
    _lymphoid("lymphocyte"),
    _lymphoid("lymphocyte_large_granular"),
    _lymphoid("lymphocyte_reactive"),
    # Neoplastic lymphocytes and hairy cells are of mature B- or T-cell neoplasms (WHO 2022).
    _lymphoid("lymphocyte_neoplastic"),
    _lymphoid("hairy_cell"),
    _lymphoid("plasma_cell"),
    # What is left of a cell that burst; from which lineage cannot be seen.
    CellType(name="smudge_cell", lineage="none", maturity="none"),
)

CODES: dict[str, int] = {cell.name: code for code, cell in enumerate(CELL_TYPES)}
"""Name of a cell type -> its position in `CELL_TYPES`."""

ALIASES: dict[str, dict[str, str]] = {
    "Acevedo-20": {
        "sne": "neutrophil_segmented",
        "bne": "neutrophil_band",
        "ly": "lymphocyte",
        "mo": "monocyte",
        "eo": "eosinophil",
        "ba": "basophil",
        "erb": "normoblast",
        "pmy": "promyelocyte",
        "my": "myelocyte",
        "mmy": "metamyelocyte",
    },
    "Matek-19": {
        "ngs": "neutrophil_segmented",
        "ngb": "neutrophil_band",
        "myo": "myeloblast",
        "lyt": "lymphocyte",
        "mon": "monocyte",
        "eos": "eosinophil",
        "bas": "basophil",
        "ebo": "normoblast",
        "pmo": "promyelocyte",
        "myb": "myelocyte",
        "mmz": "metamyelocyte",
        "ksc": "smudge_cell",
    },
    "plain names": {
        "neutrophil": "neutrophil_segmented",
        "segmented_neutrophil": "neutrophil_segmented",
        "band_neutrophil": "neutrophil_band",
        "band": "neutrophil_band",
        "band_cell": "neutrophil_band",
        "stab": "neutrophil_band",
        "stab_cell": "neutrophil_band",
        "seg": "neutrophil_segmented",
        "segs": "neutrophil_segmented",
        "erythroblast": "normoblast",
        "nucleated_red_blood_cell": "normoblast",
        "nrbc": "normoblast",
        "typical_lymphocyte": "lymphocyte",
        "lymphocyte_typical": "lymphocyte",
        "large_granular_lymphocyte": "lymphocyte_large_granular",
        "lgl": "lymphocyte_large_granular",
        "reactive_lymphocyte": "lymphocyte_reactive",
        "neoplastic_lymphocyte": "lymphocyte_neoplastic",
        "atypical_promyelocyte": "promyelocyte_atypical",
        "hairy": "hairy_cell",
        "plasma": "plasma_cell",
        "smudge": "smudge_cell",
    },
}
"""Data set -> its name or code (folded) -> MLL23's name.

Sources: Acevedo et al. 2020 (Data in Brief 30:105474), the prefixes of the file names; Matek et al.
2019 (Nat. Mach. Intell. 1:538), the folders. Left out, because they are not one of the 18 or are
more than one: Acevedo's `ig` and platelets; Matek's LYA, MOB and PMB.
"""

_SEVERAL: dict[str, tuple[str, ...]] = {
    "ig": ("promyelocyte", "myelocyte", "metamyelocyte"),
    "immature_granulocyte": ("promyelocyte", "myelocyte", "metamyelocyte"),
    "lya": ("lymphocyte_reactive", "lymphocyte_neoplastic"),
    "atypical_lymphocyte": ("lymphocyte_reactive", "lymphocyte_neoplastic"),
    "lymphocyte_atypical": ("lymphocyte_reactive", "lymphocyte_neoplastic"),
    "pmb": ("promyelocyte", "promyelocyte_atypical"),
}
"""A name (folded) that stands for more than one type, and those that it may mean."""

_FOLDED: dict[str, str] = {name: name for name in CODES} | {
    alias: name for names in ALIASES.values() for alias, name in names.items()
}
_PLAIN = {name: name for name in CODES} | ALIASES["plain names"]
"""The names that are words, which a misspelt name can be compared with."""

_NOUNS = r"cyte|phil|blast|cell|band|smudge|nrbc|lgl"
_SEPARATING = ("Z", "Pc", "Pd", "Ps", "Pe", "Cc", "Cf")
"""Unicode's categories of blanks, underscores, dashes, brackets and what is not seen."""


def resolve(label: str, label_map: Mapping[str, str] | None = None) -> str:
    """MLL23's name for `label`, or `SKIP` where the site's own `label_map` says so.

    The site's map is asked first; then the 18 names and `ALIASES`. Names are compared in Unicode's
    compatibility form (NFKC), without case, blanks, dashes, underscores, brackets, commas, stops
    and the plural's s; letters of all scripts and marks such as + ? * count. Raises DataError, with
    the types that it may be, for an unknown label, and like `check_label_map`.
    """
    found = known_as(label, label_map)
    if found is None:
        raise DataError(
            f"label {label!r} is not a known cell type; {_nearest(label)}. If it is a name of "
            f"this site's own, map it in label_map (to one of the 18, or to {SKIP!r})"
        )
    return found


def known_as(label: str, label_map: Mapping[str, str] | None = None) -> str | None:
    """What `resolve` gives, or None where it refuses an unknown label."""
    folded = _fold(label)
    own = _folded_map(tuple((label_map or {}).items()))
    return own.get(folded) or _FOLDED.get(folded)


def check_label_map(label_map: Mapping[str, str]) -> None:
    """Raises DataError: an empty name, one mapped to no cell type, two that are alike as `resolve`
    compares them and are mapped to different types."""
    _folded_map(tuple(label_map.items()))


def unused(label_map: Mapping[str, str], labels: Iterable[str]) -> list[str]:
    """The map's names that none of the labels is, as `resolve` compares them."""
    there = {_fold(label) for label in labels}
    return [name for name in label_map if _fold(name) not in there]


def _checked(label_map: dict[str, str]) -> dict[str, str]:
    try:
        check_label_map(label_map)
    except DataError as error:
        raise ValueError(str(error)) from None
    return label_map


LabelMap = Annotated[dict[str, str], AfterValidator(_checked)]
"""A site's own names -> cell types or `SKIP`, in a YAML file: held to `check_label_map`."""


@lru_cache(maxsize=64)
def _folded_map(names: tuple[tuple[str, str], ...]) -> dict[str, str]:
    """A site's names, folded -> a name in `CODES`, or `SKIP`."""
    found: dict[str, str] = {}
    first: dict[str, str] = {}
    for name, given in names:
        folded = _fold(name)
        if all(unicodedata.category(letter) == "Pd" for letter in folded.replace("_", "")):
            raise DataError(
                f"label_map: {name!r} is no name; give the name that is mapped, or none"
            )
        target = _target(name, given)
        if found.setdefault(folded, target) != target:
            raise DataError(
                f"label_map: {first[folded]!r} and {name!r} count as the same name, and are mapped "
                f"to {found[folded]!r} and {target!r}; keep one of them"
            )
        first.setdefault(folded, name)
    return found


def _target(name: str, given: str) -> str:
    folded = _fold(given)
    if folded == SKIP:
        return SKIP
    if folded not in _FOLDED:
        raise DataError(
            f"label_map: {name!r} is mapped to {given!r}, which is not a cell type; "
            f"{_nearest(given)}, or {SKIP!r} to leave its images out"
        )
    return _FOLDED[folded]


@lru_cache(maxsize=4096)
def _fold(label: str) -> str:
    """`label` as names are compared: its words in lower case, singular, joined by underscores."""
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", label).casefold()).strip()
    words = "".join("_" if _separates(text, at) else text[at] for at in range(len(text)))
    joined = re.sub("_+", "_", words).strip("_")
    return re.sub(rf"({_NOUNS})s(?=_|$)", r"\1", joined)


def _separates(text: str, at: int) -> bool:
    """Whether the character at `at` is between words. A dash that no word follows, as in "CD5-",
    "CD5 -" and "CD5 (-)", is a sign, as + is."""
    kind = unicodedata.category(text[at])
    if kind == "Pd":
        return text[at + 1 :].lstrip()[:1].isalnum()
    return kind.startswith(_SEPARATING) or text[at] in ",."


def may_mean(label: str) -> list[str]:
    """The types that an unknown name may mean; none where it is like no name.

    Those that it stands for, is a slip of the pen of, is the beginning of, or shares a noun with.
    """
    folded = _fold(label)
    parts = [_FOLDED[part] for part in folded.split("/") if part in _FOLDED]
    slips = difflib.get_close_matches(folded, _PLAIN, 3, 0.8)
    found = (
        _SEVERAL.get(folded)
        or parts
        or [_PLAIN[name] for name in slips]
        or [target for name, target in _PLAIN.items() if len(folded) > 3 and _begins(name, folded)]
        or _of_noun(folded)
    )
    return list(dict.fromkeys(found))


def _begins(name: str, folded: str) -> bool:
    return any(word.startswith(folded) for word in name.split("_"))


def _of_noun(folded: str) -> list[str]:
    """The types whose names have a noun of `folded` in them, like "lymphocyte"."""
    nouns = {word for word in folded.split("_") if re.search(rf"({_NOUNS})$", word)} - {"cell"}
    return [target for name, target in _PLAIN.items() if nouns.intersection(name.split("_"))]


def _nearest(label: str) -> str:
    found = may_mean(label)
    return f"nearest: {', '.join(found)}" if found else f"known: {', '.join(CODES)}"
