"""The replay set of the package: what it holds, and what of it is replayed."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from made_pairs import OXIDES, RADII, make_pairs

from e3relax_flows.core.errors import ConfigError
from e3relax_flows.core.geometry import measure_log_strain
from e3relax_flows.pairs import bundled
from e3relax_flows.pairs.datasets import build_dataset, freeze_holdout
from e3relax_flows.pairs.files import write_pair_file
from e3relax_flows.schemas.datasets import PairFilter
from e3relax_flows.schemas.pairs import PairDoc, identify_pair


@pytest.fixture
def replay_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """A replay set of oxides and of the halides of sodium, in place of the package's."""
    pairs = make_pairs(OXIDES, "replay", per_system=2) + [
        pair for pair in make_pairs(RADII, "replay", per_system=2) if "Na" in pair.chemical_system
    ]
    labelled = [pair.model_copy(update={"is_dft": False, "functional": "P-1", "code": "P-1"}) for pair in pairs]
    labelled = [pair.model_copy(update={"pair_id": identify_pair(pair)}) for pair in labelled]
    write_pair_file(tmp_path / bundled.PAIRS_FILE, labelled)
    monkeypatch.setattr(bundled, "FOLDER", tmp_path)
    bundled.load_bundled.cache_clear()
    yield labelled
    bundled.load_bundled.cache_clear()


def test_pairs_are_read_as_they_were_written(replay_set: list[PairDoc]) -> None:
    loaded = bundled.load_bundled()
    assert list(loaded) == [pair.pair_id for pair in replay_set]
    for pair in replay_set:
        assert identify_pair(loaded[pair.pair_id]) == pair.pair_id
        assert (loaded[pair.pair_id].prototype, loaded[pair.pair_id].is_dft) == (pair.prototype, False)


def test_nothing_is_replayed_of_what_is_held_out_or_validated_on(replay_set: list[PairDoc]) -> None:
    holdout = freeze_holdout(make_pairs(RADII, "own", 6), "h", "chemical_system", ["Cl-Na", "F-K"], min_pairs=10)
    chosen = bundled.choose_bundled([holdout], {"Mg-O"}, "chemical_system", PairFilter())
    left = {pair.chemical_system for pair in replay_set if pair.pair_id not in chosen}
    assert left == {"Cl-Na", "Mg-O"}
    assert not bundled.choose_bundled([holdout], {"AB_225"}, "prototype", PairFilter())
    assert not bundled.choose_bundled([], set(), "prototype", PairFilter(max_atoms=1))


def test_bundled_pairs_are_trained_on_and_never_validated_on(replay_set: list[PairDoc]) -> None:
    own = build_dataset(make_pairs(RADII, "own", 6), [], val_fraction=0.2)
    ids = bundled.choose_bundled([], set(), "chemical_system", PairFilter())
    both = bundled.add_bundled(own, ids)
    assert set(both.train) == {*own.train, *ids}
    assert both.val == own.val
    assert both.dataset_id != own.dataset_id
    assert both.functionals == {"PBE": len(own.train), "P-1": len(replay_set)}
    assert both.sources == {"own": len(own.train), "replay": len(replay_set)}


@pytest.mark.usefixtures("replay_set")
def test_a_damaged_set_says_what_to_do() -> None:
    path = bundled.FOLDER / bundled.PAIRS_FILE
    path.write_bytes(path.read_bytes()[:-20])
    bundled.load_bundled.cache_clear()
    with pytest.raises(ConfigError, match=r"replay\.bundled: false"):
        bundled.load_bundled()


def test_the_set_of_the_package_is_what_its_card_says() -> None:
    bundled.load_bundled.cache_clear()
    pairs = list(bundled.load_bundled().values())
    card = (bundled.FOLDER / bundled.CARD_FILE).read_text(encoding="utf-8")
    assert f"{len(pairs)} pairs" in card
    assert (bundled.FOLDER / bundled.PAIRS_FILE).stat().st_size < 3_000_000
    assert {(pair.is_dft, pair.functional, pair.source) for pair in pairs} == {(False, "SevenNet-l3i5", "replay")}
    assert len({identify_pair(pair) for pair in pairs}) == len(pairs)
    with gzip.open(bundled.FOLDER / bundled.PAIRS_FILE, "rt") as stream:
        assert sum(1 for _ in stream) == len(pairs)
    for pair in pairs:
        strain = measure_log_strain(pair.initial.lattice.matrix, pair.relaxed.lattice.matrix)
        assert np.linalg.norm(strain) < 0.9
        assert pair.relaxed.is_valid(0.6)
        assert pair.initial.atomic_numbers == pair.relaxed.atomic_numbers
