from __future__ import annotations

import re
from functools import cache

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from maggma.stores import MemoryStore
from pymatgen.core import Lattice, Structure

from e3relax_flows.core.errors import ConfigError
from e3relax_flows.pairs.dataset_store import (
    DatasetStores,
    find_dataset,
    find_holdout,
    list_holdouts,
    open_dataset_stores,
    save_dataset,
    save_holdout,
)
from e3relax_flows.pairs.datasets import MIN_PAIRS, build_dataset, explain_leaving_out, freeze_holdout
from e3relax_flows.schemas.datasets import PairFilter, identify_dataset, identify_holdout
from e3relax_flows.schemas.pairs import Freedom, PairDoc, PairStart


@cache
def build_model_pair() -> PairDoc:
    salt = Structure(Lattice.cubic(3.5), ["Cs", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    return PairDoc(
        pair_id="",
        origin_id="",
        initial=salt,
        relaxed=salt,
        start_kind=PairStart.RAW,
        source="made",
        functional="PBE",
        code="VASP",
        is_dft=True,
        formula="CsCl",
        chemical_system="Cl-Cs",
        prototype="AB_221_a_b",
        n_atoms=2,
    )


def make_pair(name: str, system: str = "Cl-Cs", **fields) -> PairDoc:
    defaults = {"pair_id": name, "origin_id": f"job-{name}", "chemical_system": system}
    return build_model_pair().model_copy(update=defaults | fields)


def make_pairs(n_systems: int, per_system: int = 3, source: str = "made") -> list[PairDoc]:
    return [
        make_pair(f"{source}-{system:03d}-{k}", f"A-X{system:03d}", source=source, prototype=f"P{k}")
        for system in range(n_systems)
        for k in range(per_system)
    ]


def test_whole_groups_of_every_source_are_held_out():
    pairs = make_pairs(40, 3, "vasp") + make_pairs(10, 2, "gpaw")
    # the systems are shared; each belongs to the source of most of its pairs
    holdout = freeze_holdout(pairs, "first", "chemical_system", 0.2)
    assert len(holdout.groups) == round(0.2 * 40)
    assert holdout.pair_ids == sorted(p.pair_id for p in pairs if p.chemical_system in holdout.groups)
    assert holdout.holdout_id == identify_holdout(holdout.pair_ids)
    assert holdout.fraction == 0.2
    rare = make_pairs(40, 3, "vasp") + [make_pair(f"rare-{k}", f"B-Y{k}", source="gpaw") for k in range(3)]
    strata = freeze_holdout(rare, "second", "chemical_system", 0.2).strata
    assert strata == {"gpaw": 1, "vasp": 24}
    by_prototype = freeze_holdout(pairs, "third", "prototype", 0.3)
    assert len(by_prototype.groups) == 1
    assert by_prototype.groups[0] in ("P0", "P1", "P2")
    assert {p.prototype for p in pairs if p.pair_id in by_prototype.pair_ids} == set(by_prototype.groups)


@hypothesis_settings(max_examples=25, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(-3, 1000), st.floats(0.05, 0.8))
def test_nothing_depends_on_the_order_of_pairs(random, seed, fraction):
    pairs = make_pairs(30, 2, "vasp") + make_pairs(12, 1, "gpaw")
    shuffled = random.sample(pairs, len(pairs))
    holdout, again = (
        freeze_holdout(each, "h", "chemical_system", fraction, seed=seed, min_pairs=2) for each in (pairs, shuffled)
    )
    same = {"frozen_at"}
    assert holdout.model_dump(exclude=same) == again.model_dump(exclude=same)
    dataset, other = (
        build_dataset(iter(each), [holdout], val_fraction=fraction, seed=seed) for each in (pairs, shuffled)
    )
    same = {"created_at"}
    assert dataset.model_dump(exclude=same) == other.model_dump(exclude=same)
    parts = [set(dataset.train), set(dataset.val), set(holdout.pair_ids)]
    assert all(parts)
    assert sum(map(len, parts)) == len(set.union(*parts)) == len(pairs)
    systems = [{p.chemical_system for p in pairs if p.pair_id in part} for part in parts]
    assert sum(map(len, systems)) == len(set.union(*systems))


def test_the_seed_matters_and_the_id_is_of_the_content():
    pairs = make_pairs(60)
    one, two = (freeze_holdout(pairs, "h", "chemical_system", 0.2, seed=seed) for seed in (0, 1))
    assert one.holdout_id != two.holdout_id
    first = build_dataset(pairs, [one])
    assert first.dataset_id == identify_dataset(first.train, first.val)
    assert build_dataset(pairs, [one], seed=1).dataset_id != first.dataset_id
    ids = {*first.train, *first.val}
    rebuilt = build_dataset((p for p in pairs if p.pair_id in ids), [])
    assert rebuilt.dataset_id == first.dataset_id
    assert rebuilt.holdout_ids == []
    assert first.holdout_ids == [one.holdout_id]


def test_a_group_stays_where_it_is_while_pairs_accumulate():
    few, many = make_pairs(40, 1), make_pairs(160, 3)
    before, after = build_dataset(few, []), build_dataset(many, [])
    assert set(before.train) <= set(after.train)
    assert set(before.val) <= set(after.val)
    assert 0.05 < len(after.val) / len(many) < 0.16


def test_validation_takes_other_groups_than_a_holdout_would():
    """With one draw for both, the groups that a holdout leaves are those that validation does not want."""
    pairs = make_pairs(300, 1)
    holdout = freeze_holdout(pairs, "h", "chemical_system", 0.2)
    dataset = build_dataset(pairs, [holdout], val_fraction=0.2)
    assert 30 <= len(dataset.val) <= 66


def test_the_same_structure_from_several_starts_is_never_split():
    pairs = [
        make_pair(f"{system}-{kind}", f"A-X{system}", start_kind=kind) for system in range(40) for kind in PairStart
    ]
    holdout = freeze_holdout(pairs, "h", "chemical_system", 0.25)
    dataset = build_dataset(pairs, [holdout], val_fraction=0.3)
    for part in (dataset.train, dataset.val, holdout.pair_ids):
        assert len(part) % 3 == 0
        assert {name.split("-")[0] + "-raw" for name in part} <= set(part)


def test_later_pairs_of_held_out_groups_are_in_quarantine():
    pairs = make_pairs(40)
    holdout = freeze_holdout(pairs, "h", "chemical_system", 0.2)
    held, free = holdout.groups[0], next(p.chemical_system for p in pairs if p.chemical_system not in holdout.groups)
    later = [make_pair("later-1", held), make_pair("later-2", held, prototype="new"), make_pair("later-3", free)]
    dataset = build_dataset(pairs + later, [holdout])
    taken = {*dataset.train, *dataset.val}
    assert dataset.n_quarantined == 2
    assert "later-3" in taken
    assert taken.isdisjoint({"later-1", "later-2", *holdout.pair_ids})
    # two holdouts of different kinds of groups
    other = freeze_holdout(pairs, "p", "prototype", ["P1"])
    both = build_dataset(pairs + later, [holdout, other])
    assert {p.prototype for p in pairs + later if p.pair_id in {*both.train, *both.val}} == {"P0", "P2", "AB_221_a_b"}
    assert both.holdout_ids == sorted([holdout.holdout_id, other.holdout_id])


def test_functionals_are_never_mixed_silently():
    pairs = make_pairs(20) + [make_pair(f"u-{k}", f"B-X{k}", functional="PBE+U") for k in range(3)]
    for build in (
        lambda filter: freeze_holdout(pairs, "h", "chemical_system", 0.5, filter),
        lambda filter: build_dataset(pairs, [], filter),
    ):
        with pytest.raises(ConfigError, match=re.escape("PBE (60 pairs), PBE+U (3 pairs); choose one")) as caught:
            build(None)
        assert "filter.functionals: [PBE] (--functional" in str(caught.value)
    alone = build_dataset(pairs, [], PairFilter(functionals=["PBE"]))
    assert alone.left_out == {"functional": 3}
    assert len(alone.train) + len(alone.val) == 60
    mixed = build_dataset(pairs, [], PairFilter(functionals=["PBE", "PBE+U"]), val_fraction=0.01)
    assert len(mixed.train) + len(mixed.val) == 63
    assert sum(mixed.functionals.values()) == len(mixed.train)


def test_one_functional_has_one_spelling_in_pairs_and_filters():
    """Pairs of an older emmet and of a newer one are of one functional, whatever the filter calls it."""
    older = [make_pair(f"o-{k}", f"A-X{k}", functional="PBESol") for k in range(5)]
    newer = [make_pair(f"n-{k}", f"B-X{k}", functional="PBEsol") for k in range(5)]
    for filter in (None, PairFilter(functionals=["pbesol"])):
        dataset = build_dataset(older + newer, [], filter)
        assert len(dataset.train) + len(dataset.val) == 10
        assert set(dataset.functionals) == {"PBEsol"}
    with pytest.raises(ConfigError):
        build_dataset(older, [], PairFilter(functionals=["PBE"]))


def test_what_the_filter_leaves_out_is_counted_by_reason():
    pairs = [
        *make_pairs(10),
        make_pair("a", superseded_by="b"),
        make_pair("c", is_dft=False, functional="CHGNet"),
        make_pair("d", free=Freedom(shape=False)),
        make_pair("e", start_kind=PairStart.PREDICTED),
        make_pair("f", n_atoms=41),
        make_pair("g", source="else"),
    ]
    filter = PairFilter(sources=["made"], start_kinds=[PairStart.RAW], max_atoms=40)
    dataset = build_dataset(pairs, [], filter)
    assert dataset.left_out == {
        "superseded": 1, "not_dft": 1, "not_free": 1, "start_kind": 1, "too_large": 1, "source": 1
    }  # fmt: skip
    assert len(dataset.train) + len(dataset.val) == 30
    assert dataset.sources == {"made": len(dataset.train)}
    everything = PairFilter(dft_only=False, full_freedom=False, functionals=["PBE", "CHGNet"])
    assert [p.pair_id for p in pairs if explain_leaving_out(p, everything)] == ["a"]


@pytest.mark.parametrize(
    ("take", "n_systems", "message"),
    [
        (0.1, 10, rf" 3 of 30 pairs, .* {MIN_PAIRS} .*no pair was left out.*--fraction"),
        (["A-X001"], 10, " 3 of 30 pairs.*--group.*--min-pairs"),
        (["A-X01"], 40, r"'A-X01' \(chemical_system\); .* 40 groups, .*A-X0"),
        (0.5, 1, " 0 of 3 pairs"),  # never all groups
        (1.5, 10, r" 1\.5"),
        (0.5, 0, " 0 of 0 pairs"),
        (["A-X001"], 0, " 0 groups, .*none"),
    ],
)
def test_a_useless_holdout_is_refused(take, n_systems, message):
    with pytest.raises(ConfigError, match=message):
        freeze_holdout(make_pairs(n_systems), "h", "chemical_system", take)


def test_named_groups_are_held_out():
    pairs = make_pairs(20)
    holdout = freeze_holdout(pairs, "h", "chemical_system", ["A-X003", "A-X001", "A-X003"], min_pairs=6)
    assert holdout.groups == ["A-X001", "A-X003"]
    assert len(holdout.pair_ids) == 6
    assert holdout.fraction is None
    assert freeze_holdout(pairs, "h", "chemical_system", "A-X003", min_pairs=2).groups == ["A-X003"]
    every = freeze_holdout(pairs, "h", "chemical_system", [f"A-X{k:03d}" for k in range(20)])
    assert len(every.pair_ids) == len(pairs) == 60  # those to train on come later


def test_nothing_to_train_on_says_why():
    pairs = make_pairs(12)
    holdout = freeze_holdout(pairs, "h", "chemical_system", [f"A-X{k:03d}" for k in range(11)])
    with pytest.raises(ConfigError, match=r"^3 pairs .* 1 groups .* 36 pairs .* 0 of .*e3relax data build"):
        build_dataset(pairs, [holdout])
    two = freeze_holdout(pairs, "h", "chemical_system", [f"A-X{k:03d}" for k in range(10)])
    small = build_dataset(pairs, [two], val_fraction=0.9)
    assert len(small.train) == len(small.val) == 3


@pytest.fixture(params=["embedded", "memory"])
def stores(request, settings):
    if request.param == "embedded":
        with open_dataset_stores(settings) as opened:
            yield opened
    else:
        with MemoryStore("h", key="name") as holdouts, MemoryStore("d", key="dataset_id") as datasets:
            yield DatasetStores(holdouts, datasets)


def test_a_holdout_is_frozen_once(stores):
    pairs = make_pairs(60)
    holdout = freeze_holdout(pairs, "first", "chemical_system", 0.2)
    assert save_holdout(stores, holdout) == holdout
    assert find_holdout(stores, "first") == find_holdout(stores, holdout.holdout_id) == holdout
    again = freeze_holdout(pairs[::-1], "first", "chemical_system", 0.2)
    assert save_holdout(stores, again).frozen_at == holdout.frozen_at
    other = freeze_holdout(pairs, "first", "chemical_system", 0.2, seed=1)
    with pytest.raises(ConfigError, match=r"'first' .* \d{4}-.* 36 pairs in 12 .* 36 in 12 "):
        save_holdout(stores, other)
    # more pairs of the same groups: quarantine would be the same, but what models are judged on would not
    grown = freeze_holdout([*pairs, make_pair("new", holdout.groups[0])], "first", "chemical_system", holdout.groups)
    with pytest.raises(ConfigError, match="37 in 12"):
        save_holdout(stores, grown)
    assert find_holdout(stores, "first") == holdout
    second = save_holdout(stores, other.model_copy(update={"name": "second"}))
    assert [doc.name for doc in list_holdouts(stores)] == ["first", "second"]
    assert find_holdout(stores, second.holdout_id).name == "second"
    with pytest.raises(ConfigError, match=r"'third' .*\(2 holdouts: first, second\).*`e3relax data freeze`"):
        find_holdout(stores, "third")


def test_a_dataset_is_kept_under_its_id(stores):
    dataset = build_dataset(make_pairs(30), [])
    save_dataset(stores, dataset)
    assert find_dataset(stores, dataset.dataset_id) == dataset
    again = build_dataset(make_pairs(30), [])
    assert save_dataset(stores, again).created_at == dataset.created_at
    assert stores.datasets.count() == 1
    with pytest.raises(ConfigError, match=r"'none' .*PAIR_STORE"):
        find_dataset(stores, "none")


def test_the_stores_are_beside_that_of_the_pairs(settings, tmp_path):
    path = tmp_path / "shared.sqlite"
    elsewhere = settings.model_copy(
        update={"PAIR_STORE": {"type": "SQLiteStore", "path": str(path), "collection_name": "oxides"}}
    )
    dataset = build_dataset(make_pairs(30), [])
    with open_dataset_stores(elsewhere) as stores:
        save_dataset(stores, dataset)
        assert stores.datasets.collection_name == "oxides_datasets"
        assert stores.holdouts.collection_name == "oxides_holdouts"
    assert path.exists()
    with (
        open_dataset_stores(settings) as stores,
        pytest.raises(ConfigError, match=rf"'{dataset.dataset_id}' .*PAIR_STORE"),
    ):
        find_dataset(stores, dataset.dataset_id)
