"""Cell types and what other data sets call them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.cells import ALIASES, CELL_TYPES, CODES, SKIP, resolve
from common.errors import DataError

ORDER = [
    "myeloblast",
    "promyelocyte",
    "promyelocyte_atypical",
    "myelocyte",
    "metamyelocyte",
    "neutrophil_band",
    "neutrophil_segmented",
    "eosinophil",
    "basophil",
    "monocyte",
    "normoblast",
    "lymphocyte",
    "lymphocyte_large_granular",
    "lymphocyte_reactive",
    "lymphocyte_neoplastic",
    "hairy_cell",
    "plasma_cell",
    "smudge_cell",
]


def test_the_order_is_fixed_because_caches_and_models_store_positions() -> None:
    assert [cell.name for cell in CELL_TYPES] == ORDER
    assert {ORDER[code]: code for code in range(18)} == CODES


def test_lineage_and_maturity() -> None:
    lineage = {cell.name: cell.lineage for cell in CELL_TYPES}
    assert {name for name in lineage if lineage[name] == "lymphoid"} == set(ORDER[11:17])
    assert {name for name in lineage if lineage[name] == "none"} == {"smudge_cell"}
    assert [cell.name for cell in CELL_TYPES if cell.maturity == "blast"] == ["myeloblast"]


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(ORDER), st.sampled_from(["_", " ", "-", " - "]), st.data())
def test_case_spaces_and_hyphens_do_not_matter(
    name: str, separator: str, data: st.DataObject
) -> None:
    upper = data.draw(st.lists(st.booleans(), min_size=len(name), max_size=len(name)))
    written = "".join(c.upper() if up else c for c, up in zip(name, upper, strict=True))
    assert resolve(f" {written.replace('_', separator)} ") == name


@pytest.mark.parametrize(
    ("column", "codes"),
    [
        ("Matek-19", "NGS NGB MYO LYT MON EOS BAS EBO PMO MYB MMZ"),
        ("Acevedo-20", "SNE BNE - LY MO EO BA ERB PMY MY MMY"),
    ],
)
def test_codes_of_other_data_sets(column: str, codes: str) -> None:
    names = [
        "neutrophil_segmented",
        "neutrophil_band",
        "myeloblast",
        "lymphocyte",
        "monocyte",
        "eosinophil",
        "basophil",
        "normoblast",
        "promyelocyte",
        "myelocyte",
        "metamyelocyte",
    ]
    for code, name in zip(codes.split(), names, strict=True):
        if code != "-":
            assert ALIASES[column][code.lower()] == name
            assert resolve(code) == name


def test_no_name_means_two_cell_types() -> None:
    meant: dict[str, set[str]] = {}
    for names in ALIASES.values():
        for alias, name in names.items():
            assert name in CODES
            meant.setdefault(alias, set()).add(name)
    assert all(len(names) == 1 for names in meant.values())
    assert not meant.keys() & CODES.keys()


@pytest.mark.parametrize("label", ["ig", "IG", "platelet", "LYA", "MOB", "PMB", "", "  "])
def test_names_of_no_type_or_of_several_are_refused(label: str) -> None:
    with pytest.raises(DataError, match="is not a known cell type"):
        resolve(label)


def test_unknown_label_gives_the_nearest_names() -> None:
    with pytest.raises(DataError, match=r"nearest: .*eosinophil.*label_map"):
        resolve("eosinophill")
    with pytest.raises(DataError, match="known: myeloblast, promyelocyte, "):
        resolve("qqqq")


def test_the_sites_own_names_come_first() -> None:
    site = {"Stab": "band neutrophil", "lymphocyte": "lymphocyte_reactive", "dirt": SKIP}
    assert resolve("stab", site) == "neutrophil_band"
    assert resolve("Lymphocyte", site) == "lymphocyte_reactive"
    assert resolve("dirt", site) == SKIP
    assert resolve("monocyte", site) == "monocyte"


def test_a_wrong_target_in_the_sites_map_is_named() -> None:
    with pytest.raises(DataError, match=r"label_map: 'Stab' is mapped to 'neutrofil'.*nearest"):
        resolve("Stab", {"Stab": "neutrofil"})
