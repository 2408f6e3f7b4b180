from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.data.splits import SPLITS
from client.data.store import CellCache
from common.cell_types import CELL_TYPES
from common.config.study import Study
from common.errors import DataError
from simulations.config import Deal, PartitionSpec
from simulations.partition import DealtSite, deal


def lab(name: str, cells: int, seed: int, patients: int = 0, classes: int = 4) -> CellCache:
    """A lab's cells without their pixels: dealing never looks at them."""
    rng = np.random.default_rng(seed)
    numbers = rng.integers(0, max(patients, 1), cells)
    return CellCache(
        folder=Path(name),
        meta={"side": 16},
        labels=rng.integers(0, classes, cells),
        patients=np.array([f"p{n}" if patients else "" for n in numbers]),
        splits=np.full(cells, "", "U10"),
        sources=np.array([f"{n}.png" for n in range(cells)]),
        fingerprint=name,
        _store=np.zeros((cells, 1, 1, 3), np.uint8),
    )


def of(seed: int, **privacy: object) -> Study:
    return Study.model_validate({"name": "dealt", "seed": seed, "privacy": privacy})


def cells_of(site: DealtSite) -> set[tuple[str, int]]:
    return {(share.folder.name, int(row)) for share in site.shares for row in share.rows}


@settings(max_examples=30)
@given(
    st.integers(0, 1000),
    st.sampled_from(["iid", "dirichlet", "quantity"]),
    st.integers(1, 6),
    st.sampled_from([0, 40]),
)
def test_each_cell_goes_to_one_site_and_patients_stay_whole(
    seed: int, scheme: str, sites: int, patients: int
) -> None:
    labs = {"a": lab("a", 200, seed, patients), "b": lab("b", 150, seed + 1, patients)}
    pool = Deal(scheme=scheme, sites=sites, alpha=2.0)
    dealt = deal(labs, PartitionSpec(pool=pool, min_cells=1), of(seed))
    assert len(dealt) == sites
    parts = [cells_of(site) for site in dealt]
    assert sum(map(len, parts)) == len(set().union(*parts)) == 350
    if patients:
        homes: dict[tuple[str, str], set[int]] = {}
        for number, part in enumerate(parts):
            for name, row in part:
                homes.setdefault((name, str(labs[name].patients[row])), set()).add(number)
        assert all(len(home) == 1 for home in homes.values())


def test_the_same_seed_deals_the_same_and_another_one_another_way() -> None:
    labs, spec = {"a": lab("a", 300, 0)}, PartitionSpec(pool=Deal(scheme="dirichlet", sites=4))
    one, two, three = deal(labs, spec, of(1)), deal(labs, spec, of(1)), deal(labs, spec, of(2))
    assert [cells_of(s) for s in one] == [cells_of(s) for s in two]
    assert [cells_of(s) for s in one] != [cells_of(s) for s in three]


def test_a_small_alpha_skews_the_classes_and_iid_does_not() -> None:
    labs = {"a": lab("a", 2000, 0)}

    def skew(scheme: str, alpha: float) -> float:
        pool = Deal(scheme=scheme, sites=4, alpha=alpha)  # type: ignore[arg-type]
        sites = deal(labs, PartitionSpec(pool=pool, min_cells=1), of(0))
        shares = [np.bincount(s.labels, minlength=4) / len(s.labels) for s in sites]
        return float(np.std(shares, axis=0).mean())

    assert skew("iid", 1.0) < 0.01 < skew("dirichlet", 10.0) < skew("dirichlet", 0.3)


def test_quantity_skews_the_sizes_and_keeps_the_classes() -> None:
    pool = Deal(scheme="quantity", sites=4, alpha=0.5)
    sites = deal({"a": lab("a", 4000, 0)}, PartitionSpec(pool=pool), of(3))
    sizes = [len(site.labels) for site in sites]
    assert max(sizes) > 2 * min(sizes)
    shares = [np.bincount(s.labels, minlength=4) / len(s.labels) for s in sites]
    assert np.std(shares, axis=0).max() < 0.1


def test_a_lab_that_is_held_out_is_whole_and_never_trains_even_where_it_would_be_split() -> None:
    labs = {"big": lab("big", 60, 0), "far": lab("far", 30, 0)}
    spec = PartitionSpec(split={"far": Deal(sites=2)}, held_out=("far",), min_cells=1)
    sites = {site.name: site for site in deal(labs, spec, of(0))}
    assert set(sites) == {"big", "far"} and sites["far"].held_out


def test_by_lab_with_one_lab_split_and_one_held_out() -> None:
    labs = {name: lab(name, 90, n) for n, name in enumerate(("big", "far", "small"))}
    spec = PartitionSpec(split={"big": Deal(sites=3)}, held_out=("far",))
    sites = deal(labs, spec, of(0))
    assert [site.name for site in sites] == ["big_1", "big_2", "big_3", "far", "small"]
    assert [site.name for site in sites if site.held_out] == ["far"]
    assert all(site.count("train") > 0 and site.count("test") > 0 for site in sites)


def test_a_site_of_one_class_is_dealt() -> None:
    site = deal({"a": lab("a", 30, 0, classes=1)}, PartitionSpec(), of(0))[0]
    assert set(site.labels.tolist()) == {0}
    assert {site.count(s) > 0 for s in ("train", "validation", "test")} == {True}


def test_too_few_cells_for_the_sites_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(DataError, match=r"30 cells of 30 patients cannot be dealt to 10 sites"):
        deal({"a": lab("a", 30, 0)}, PartitionSpec(pool=Deal(sites=10), min_cells=5), of(0))


def test_an_unknown_lab_is_named() -> None:
    with pytest.raises(DataError, match=r"no lab 'b'; the data has: a"):
        deal({"a": lab("a", 30, 0)}, PartitionSpec(held_out=("b",)), of(0))


def test_labels_are_codes_of_mll23() -> None:
    site = deal({"a": lab("a", 30, 0)}, PartitionSpec(), of(0))[0]
    assert site.labels.max() < len(CELL_TYPES)


def test_no_two_sites_go_by_one_name() -> None:
    labs = {"a": lab("a", 40, 0), "a_1": lab("a_1", 40, 1)}
    with pytest.raises(DataError, match="part 1 of lab a would go by the name of the lab a_1"):
        deal(labs, PartitionSpec(split={"a": Deal(sites=2)}), of(0))


@pytest.mark.parametrize("name", ["Uni Köln", "all-sites", "-a", "a" * 65])
def test_a_lab_whose_name_cannot_be_a_sites_is_named(name: str) -> None:
    with pytest.raises(DataError, match=f"{name!r} cannot be a site's name.*rename"):
        deal({name: lab(name, 30, 0)}, PartitionSpec(), of(0))


@pytest.mark.parametrize("unit", ["image", "patient"])
@pytest.mark.parametrize("pool", [None, Deal(sites=2)])
def test_under_privacy_a_cell_is_split_as_at_a_deployed_site(unit: str, pool: Deal | None) -> None:
    """By its unit alone: one unit more moves no cell of another to another split."""
    whole = {"a": lab("a", 300, 0, patients=60), "b": lab("b", 200, 1, patients=60)}
    gone = {"a": "p7"} if unit == "patient" else {"a": "17.png"}

    def without(name: str) -> CellCache:
        names = whole[name].patients if unit == "patient" else whole[name].sources
        return whole[name].select(np.flatnonzero(names != gone.get(name)))

    study = of(3, mode="local", unit=unit)
    spec = PartitionSpec(pool=pool, min_cells=1)
    before, after = (
        {
            (share.folder.name, int(row)): str(split)
            for site in deal(labs, spec, study)
            for share in site.shares
            for row, split in zip(share.rows, share.splits, strict=True)
        }
        for labs in (whole, {name: without(name) for name in whole})
    )
    assert 0 < len(before) - len(after) < 20 and set(before.values()) == set(SPLITS)
    assert all(before[cell] == split for cell, split in after.items())
    names = {
        (lab_, str(cache.patients[row])): set[str]()
        for lab_, cache in whole.items()
        for row in range(len(cache))
    }
    for (lab_, row), split in before.items():
        names[lab_, str(whole[lab_].patients[row])].add(split)
    assert all(len(splits) == 1 for splits in names.values())
