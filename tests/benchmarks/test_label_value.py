"""The benchmark of what a label is worth: its test pairs, what its arms choose, its intervals; without training."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from e3relax_flows import PairSet, SelectionPool, load_pairs

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"

sys.path.insert(0, str(FOLDER))
import label_value as labels  # noqa: E402

sys.path.pop(0)
N = 60


def make_pairs(n: int = N) -> PairSet:
    return PairSet(
        [f"pair {k}" for k in range(n)],
        ["source"] * n,
        np.arange(n + 1),
        np.full(n, 11),
        np.zeros((2, n, 3)),
        np.tile(4.0 * np.eye(3), (2, n, 1, 1)),
        groups=[f"group {k % 12}" for k in range(n)],
    )


def test_a_sample_is_the_same_each_time_and_grows():
    few, more = (labels.sample(make_pairs(), n) for n in (20, 40))
    assert (len(few), len(more), len(labels.sample(make_pairs(), 100))) == (20, 40, N)
    assert set(few.ids) < set(more.ids)
    assert labels.sample(make_pairs(), 20).ids == few.ids


def test_arms_choose_what_they_are_named_for():
    rng = np.random.default_rng(0)
    errors, savings = rng.uniform(size=N), rng.uniform(-1, 1, N)
    pool = SelectionPool(make_pairs().ids, errors, np.ones(N), rng.normal(size=(N, 4)))
    chosen = {arm: labels.choose(pool, savings, arm, 10, 0) for arm in labels.ARMS}
    assert all(len(set(indices)) == 10 for indices in chosen.values())
    assert set(chosen["scored"]) == set(np.argsort(-errors)[:10])
    assert set(chosen["saving"]) == set(np.argsort(savings)[:10])
    assert set(chosen["random"]) != set(labels.choose(pool, savings, "random", 10, 1))
    assert len(set(chosen["mixed"]) & set(np.argsort(-errors)[:10])) >= 4


def test_rows_are_the_pairs_again(tmp_path: Path):
    pairs, path = make_pairs(), tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in labels.list_rows(pairs)))
    again = load_pairs([path])
    assert (again.ids, again.groups, again.sources) == (pairs.ids, pairs.groups, pairs.sources)
    np.testing.assert_array_equal(again.lattices, pairs.lattices)
    np.testing.assert_array_equal(again.numbers, pairs.numbers)


def test_groups_that_choose_the_weights_have_a_fifth_of_the_pairs():
    pairs = make_pairs()
    held = labels.hold_out(pairs, 0)
    assert 12 <= sum(group in held for group in pairs.groups) < 12 + 5  # the largest group has five
    assert labels.hold_out(pairs, 0) == held != labels.hold_out(pairs, 1)


def test_intervals_see_groups_and_seeds():
    groups = [f"group {k % 12}" for k in range(N)]
    base = np.ones((3, N))
    assert labels.compare(0.8 * base, base, groups) == pytest.approx((-0.2, -0.2, -0.2))
    change, low, high = labels.compare(base * np.array([[0.6], [0.8], [1.0]]), base, groups)
    assert change == pytest.approx(-0.2)
    assert -0.4 <= low < -0.3 < -0.1 < high <= 0.0  # one seed may be drawn three times
    by_group = np.where(np.arange(N) % 12 == 0, 12.0, 1.0)[None]
    change, low, high = labels.compare(by_group, np.ones((1, N)), groups)
    assert low < 0.01 < change < 2.0 < high  # the group that is worse may not be drawn, or twice
