"""`e3relax data freeze`, `data holdouts` and `data dataset` on a store of pairs."""

from __future__ import annotations

import json

import pytest
from pymatgen.core import Lattice, Structure

from e3relax_flows.pairs.dataset_store import find_dataset, open_dataset_stores
from e3relax_flows.pairs.store import open_pair_store, save_pairs
from e3relax_flows.schemas.pairs import PairDoc, PairStart

HALIDES = [(cation, anion) for cation in ("Li", "Na", "K", "Rb", "Cs") for anion in ("F", "Cl", "Br", "I")]


def make_pair(name: str, cation: str, anion: str, **fields) -> PairDoc:
    salt = Structure(Lattice.cubic(4.0), [cation, anion], [[0, 0, 0], [0.5, 0.5, 0.5]])
    content = {
        "pair_id": name, "origin_id": f"job-{name}", "initial": salt, "relaxed": salt, "start_kind": PairStart.RAW,
        "source": "screen", "functional": "PBE", "code": "VASP", "is_dft": True, "formula": cation + anion,
        "chemical_system": "-".join(sorted((cation, anion))), "prototype": "AB_221_a_b", "n_atoms": 2,
    }  # fmt: skip
    return PairDoc(**content | fields)


@pytest.fixture
def pair_store(settings):
    docs = [make_pair(f"{c}{a}-{k}", c, a) for c, a in HALIDES for k in range(3)]
    with open_pair_store(settings) as store:
        save_pairs(store, docs)
        yield store


def test_a_holdout_is_frozen_listed_and_kept_apart(e3relax, pair_store, settings):
    assert "no holdout yet" in e3relax("data", "holdouts").stdout
    dry = e3relax("data", "freeze", "alkali", "--fraction", 0.4, "--dry-run", "--json")
    assert dry.code == 0, dry.stderr
    planned = json.loads(dry.stdout)
    assert (planned["n_pairs"], planned["n_groups"], planned["dry_run"]) == (24, 8, True)
    assert json.loads(e3relax("data", "holdouts", "--json").stdout) == []

    frozen = e3relax("data", "freeze", "alkali", "--fraction", 0.4)
    assert frozen.code == 0, frozen.stderr
    assert "24 pairs (screen: 24) in 8 groups by chemical_system are held out" in frozen.stdout
    assert f"holdout alkali, id {planned['holdout_id']}" in frozen.stdout
    assert "were held out before, unchanged" in e3relax("data", "freeze", "alkali", "--fraction", 0.4).stdout
    other = e3relax("data", "freeze", "alkali", "--fraction", 0.4, "--seed", 1)
    assert other.code == 2
    assert "A holdout never changes: choose another name" in other.stderr
    (row,) = json.loads(e3relax("data", "holdouts", "--json").stdout)
    assert (row["name"], row["n_pairs"], row["holdout_id"]) == ("alkali", 24, planned["holdout_id"])
    assert "alkali" in e3relax("data", "holdouts").stdout

    group = planned["groups"][0]
    save_pairs(pair_store, [make_pair("later", *group.split("-"), chemical_system=group)])
    result = e3relax("data", "dataset", "--json")
    assert result.code == 0, result.stderr
    counts = json.loads(result.stdout)
    assert counts["n_train"] + counts["n_val"] == 36
    assert (counts["n_quarantined"], counts["holdouts"]) == (1, ["alkali"])
    with open_dataset_stores(settings) as stores:
        dataset = find_dataset(stores, counts["dataset_id"])
    assert len(dataset.train) == counts["n_train"]
    assert "later" not in {*dataset.train, *dataset.val}
    text = e3relax("data", "dataset", "--dry-run", "--val-fraction", 0.3)
    assert "in quarantine   1, of held-out groups" in text.stdout
    assert "not stored" in text.stdout
    with open_dataset_stores(settings) as stores:
        assert stores.datasets.count() == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--fraction 0.1 of the groups, or --group A-B"),
        (["--fraction", 0.1, "--group", "Cl-Na"], "--fraction 0.1 of the groups, or --group A-B"),
        (["--group", "Na-Cl"], "no pair is of the group 'Na-Cl'"),
        (["--group", "Cl-Na"], "would have 3 of 60 pairs, at least 20"),
        (["--fraction", 0.4, "--by", "formula"], "--by 'formula' is unknown; known: chemical_system, prototype"),
        (["--fraction", 0.4, "--source", "else"], "60 pairs were left out (source: 60)"),
    ],
)
def test_a_useless_holdout_is_one_message(e3relax, pair_store, arguments, message):
    assert pair_store.count() == 60
    result = e3relax("data", "freeze", "alkali", *arguments)
    assert result.code == 2
    assert message in result.stderr
    assert json.loads(e3relax("data", "holdouts", "--json").stdout) == []


def test_named_groups_and_a_filter(e3relax, pair_store):
    save_pairs(pair_store, [make_pair("u", "Na", "Cl", functional="PBE+U"), make_pair("m", "Na", "Cl", is_dft=False)])
    mixed = e3relax("data", "freeze", "salt", "--group", "Cl-Na", "--group", "Br-K", "--min-pairs", 6)
    assert mixed.code == 2
    assert "PBE (60 pairs), PBE+U (1 pairs)" in mixed.stderr
    result = e3relax(
        "data", "freeze", "salt", "--group", "Cl-Na", "--group", "Br-K", "--min-pairs", 6, "--functional", "PBE"
    )
    assert result.code == 0, result.stderr
    assert "6 pairs (screen: 6) in 2 groups" in result.stdout
    shown = e3relax("data", "dataset", "--functional", "PBE", "--functional", "PBE+U", "--holdout", "salt")
    assert "in quarantine   1, of held-out groups" in shown.stdout
    assert "left out        not_dft: 1" in shown.stdout
    unknown = e3relax("data", "dataset", "--functional", "PBE", "--holdout", "none")
    assert unknown.code == 2
    assert "holdout 'none' is not in" in unknown.stderr
