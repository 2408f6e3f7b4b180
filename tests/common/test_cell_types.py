"""Cell types and what other data sets call them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.cell_types import (
    ALIASES,
    CELL_TYPES,
    CODES,
    SKIP,
    check_label_map,
    known_as,
    may_mean,
    resolve,
    unused,
)
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


@settings(max_examples=50)
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


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("淋巴细胞", "单核细胞"),
        ("Лимфоцит", "Моноцит"),
        ("ลิมโฟไซต์", "โมโนไซต์"),
        ("LY", "LY+"),
        ("LY", "LY?"),
        ("LY", "LY*"),
        ("CD5+", "CD5-"),
        ("CD5", "CD5-"),
        ("\u03b1", "\u03b2"),
        ("é", "e"),
    ],
)
def test_names_that_differ_by_a_letter_or_mark_are_two(one: str, other: str) -> None:
    site = {one: "lymphocyte", other: "monocyte"}
    assert (resolve(one, site), resolve(other, site)) == ("lymphocyte", "monocyte")
    with pytest.raises(DataError, match="is not a known cell type"):
        resolve(other, {one: "lymphocyte"})


@settings(max_examples=200)
@given(st.text(st.characters(categories=["L", "N", "S"]), min_size=1, max_size=6), st.data())
def test_no_two_names_of_other_letters_count_as_one(one: str, data: st.DataObject) -> None:
    other = one + data.draw(st.sampled_from("+?*#µя中"))
    site = {one: "eosinophil", other: "basophil"}
    assert (resolve(one, site), resolve(other, site)) == ("eosinophil", "basophil")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Segs", "segs"),
        ("LY+", "\uff2c\uff39\uff0b"),
        ("\uff2c\uff59", "ly"),
        ("bunt farbe", "Bunt_Farbe"),
        ("①", "1"),
    ],
)
def test_keys_that_count_as_one_name_are_refused_for_two_types_alone(one: str, other: str) -> None:
    check_label_map({one: "lymphocyte", other: "LY"})
    with pytest.raises(DataError, match="count as the same name"):
        check_label_map({one: "lymphocyte", other: "monocyte"})
    with pytest.raises(DataError, match="count as the same name"):
        resolve("eosinophil", {one: "lymphocyte", other: SKIP})


@pytest.mark.parametrize("key", ["", "  ", "--", "()"])
def test_a_key_that_is_no_name_is_refused(key: str) -> None:
    with pytest.raises(DataError, match="is no name"):
        check_label_map({key: "lymphocyte"})


@pytest.mark.parametrize(
    ("plural", "name"),
    [
        ("Eosinophils", "eosinophil"),
        ("Segmented neutrophils", "neutrophil_segmented"),
        ("Smudge cells", "smudge_cell"),
        ("Large granular lymphocytes", "lymphocyte_large_granular"),
        ("Band neutrophils", "neutrophil_band"),
        ("Nucleated red blood cells", "normoblast"),
        ("NRBCs", "normoblast"),
        *((f"{name}s", name) for name in ORDER if name.endswith(("cyte", "phil", "blast", "cell"))),
    ],
)
def test_plurals_are_known(plural: str, name: str) -> None:
    assert resolve(plural) == name
    assert resolve(plural, {plural.removesuffix("s"): SKIP}) == SKIP


def test_every_known_name_is_found_as_it_is_listed() -> None:
    for known, name in [(name, name) for name in ORDER] + [
        pair for names in ALIASES.values() for pair in names.items()
    ]:
        assert resolve(known) == name


@pytest.mark.parametrize(
    ("label", "types"),
    [
        ("Giant thrombocyte", []),
        ("Platelets", []),
        ("Müll", []),
        ("promonocyte", ["monocyte"]),
        ("monocite", ["monocyte"]),
        ("Monozyten", ["monocyte"]),
        ("Mono", ["monocyte"]),
        ("Atypical lymphocytes", ["lymphocyte_reactive", "lymphocyte_neoplastic"]),
        ("IG", ["promyelocyte", "myelocyte", "metamyelocyte"]),
        (
            "Lymphocytes, other",
            [name for name in ORDER if name.startswith("lymphocyte")],
        ),
    ],
)
def test_what_an_unknown_name_may_mean(label: str, types: list[str]) -> None:
    assert sorted(may_mean(label)) == sorted(types)


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


@pytest.mark.parametrize("name", ["CD5-", "CD5 -", "CD5 (-)", "CD5 \u2013"])
def test_a_dash_that_no_word_follows_is_a_mark_as_a_plus_is(name: str) -> None:
    assert known_as(name, {"CD5": "lymphocyte_neoplastic"}) is None
    assert known_as("LY (-)") is None and known_as("LY-") is None
    assert known_as("neutrophil - segmented") == "neutrophil_segmented"


def test_names_of_a_map_that_nothing_is_called_are_told() -> None:
    label_map = {"monocyt": "skip", "Segs": "neutrophil_segmented"}
    assert unused(label_map, ["monocyte", "segs"]) == ["monocyt"]
