"""Old pairs among new ones."""

from __future__ import annotations

import pytest

from e3relax_flows.core.errors import ConfigError
from e3relax_flows.pairs.datasets import choose_pairs
from e3relax_flows.schemas.datasets import DatasetDoc

OLD = [f"old{i:03d}" for i in range(90)]
NEW = [f"new{i:03d}" for i in range(30)]


def make_dataset(train: list[str], val: list[str]) -> DatasetDoc:
    return DatasetDoc(dataset_id="d", train=train, val=val, group_by="chemical_system", val_fraction=0.1)


@pytest.mark.parametrize(("fraction", "n_old"), [(0.0, 0), (0.25, 10), (0.5, 30), (0.9, 90)])
def test_the_share_of_old_pairs_is_as_asked(fraction: float, n_old: int) -> None:
    chosen = choose_pairs(make_dataset(OLD[10:] + NEW[5:], OLD[:10] + NEW[:5]), OLD, fraction, seed=1)
    assert chosen.issuperset(NEW)
    assert len(chosen.intersection(OLD)) == n_old


def test_the_choice_depends_on_ids_and_seed_only() -> None:
    first = choose_pairs(make_dataset(OLD + NEW, []), set(OLD), 0.5, seed=1)
    again = choose_pairs(make_dataset(NEW[::-1], OLD[::-1]), OLD[::-1], 0.5, seed=1)
    other = choose_pairs(make_dataset(OLD + NEW, []), OLD, 0.5, seed=2)
    assert first == again != other


def test_nothing_new_is_an_error() -> None:
    with pytest.raises(ConfigError, match="e3relax data build"):
        choose_pairs(make_dataset(OLD, []), OLD, 0.5, seed=0)


def test_old_pairs_that_are_wanted_and_missing_are_an_error() -> None:
    with pytest.raises(ConfigError, match=r"replay\.sources"):
        choose_pairs(make_dataset(NEW, []), OLD, 0.5, seed=0)
