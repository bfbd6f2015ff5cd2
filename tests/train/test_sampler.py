from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from e3relax_flows.core.errors import ConfigError
from e3relax_flows.train.pairs import PairSet, balance_sources
from e3relax_flows.train.sampler import BatchLimits, ShareSampler, split_batch


def make_sampler(buckets=1, ranks=(0, 1), limits=(60, 500)):
    rng = np.random.default_rng(0)
    atoms = rng.integers(1, 20, size=200)
    sizes = np.stack([atoms, atoms * rng.integers(10, 40, size=200)], axis=1)
    return ShareSampler(sizes, BatchLimits(*limits), buckets, seed=3, ranks=ranks)


@pytest.mark.parametrize("buckets", [1, 4])
def test_an_epoch_holds_every_pair_once_within_both_limits(buckets):
    sampler = make_sampler(buckets)
    first = sampler.batches
    assert sorted(index for batch in first for index in batch) == list(range(200))
    atoms, edges = np.array([sampler.sizes[batch].sum(axis=0) for batch in first]).T
    single = np.array([len(batch) == 1 for batch in first])
    assert (atoms[~single] <= 60).all()
    assert (edges[~single] <= 500).all()
    assert (edges > 300).sum() > 20  # edges, not atoms, fill most of these batches
    sampler.set_epoch(1)
    second = sampler.batches
    assert second != first
    assert sorted(index for batch in second for index in batch) == list(range(200))
    sampler.set_epoch(0)
    assert sampler.batches == first
    assert make_sampler(buckets).batches == first


def test_buckets_hold_crystals_of_like_size_and_count_each_the_same():
    mixed, bucketed = make_sampler(1), make_sampler(5)
    spread = [
        np.mean([np.ptp(sampler.sizes[batch, 1]) for batch in sampler.batches if len(batch) > 1])
        for sampler in (mixed, bucketed)
    ]
    assert spread[1] < 0.5 * spread[0]
    means = [np.mean(bucketed.sizes[batch, 1]) for batch in bucketed.batches]
    assert not np.all(np.diff(means) > 0)  # the groups are shuffled
    shares = list(bucketed)
    assert len({share.scale for share in shares}) > 3
    # scale over number of crystals, the weight of one crystal, is the same in every batch
    assert np.ptp([share.scale / len(share.indices) for share in shares]) == pytest.approx(0.0, abs=1e-12)
    assert all(share.scale == 1.0 for share in mixed)


@pytest.mark.parametrize("n_ranks", [2, 3, 7])
def test_ranks_share_the_same_global_batches(n_ranks):
    whole = list(make_sampler())
    parts = [list(make_sampler(ranks=(rank, n_ranks))) for rank in range(n_ranks)]
    for place, share in enumerate(whole):
        mine = [part[place] for part in parts]
        assert sum(part.weight for part in mine) == pytest.approx(1.0)
        assert sorted(index for part in mine if part.weight for index in part.indices) == sorted(share.indices)
        for part in mine:
            assert part.indices  # who has nothing computes one crystal without weight
            assert part.weight in (0.0, len(part.indices) / len(share.indices))
            assert (part.epoch, part.batch) == (0, place)


def test_a_split_is_even_in_edges():
    costs = [900, 500, 400, 300, 200, 200, 100]
    parts = split_batch(costs, 2)
    assert sorted(position for part in parts for position in part) == list(range(7))
    assert [sum(costs[position] for position in part) for part in parts] == [1300, 1300]
    assert split_batch([5], 3) == [[0], [], []]


def test_an_epoch_goes_on_where_it_was_left():
    sampler = make_sampler()
    sampler.set_epoch(2)
    whole = list(sampler)
    sampler.set_epoch(2, start=4)
    assert list(sampler) == whole[4:]
    assert len(sampler) == len(whole) - 4


def make_sources(*counts: tuple[str, int]) -> PairSet:
    names = [source for source, count in counts for _ in range(count)]
    n = len(names)
    lattices = np.tile(np.eye(3) * 3.0, (2, n, 1, 1))
    return PairSet([f"p{i}" for i in range(n)], names, np.arange(n + 1), np.full(n, 11), np.zeros((2, n, 3)), lattices)


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        ({}, {"own": 4, "old": 40, "others": 6}),
        ({"old": 0.5}, {"own": 16, "old": 40, "others": 24}),
        ({"own": 0.6}, {"own": 68, "old": 40, "others": 6}),
        ({"own": 0.4, "old": 0.4}, {"own": 40, "old": 40, "others": 18}),
    ],
)
def test_sources_have_their_shares_of_an_epoch(shares: dict[str, float], expected: dict[str, int]) -> None:
    pairs = make_sources(("own", 4), ("old", 40), ("others", 6))
    balanced = balance_sources(pairs, shares)
    assert Counter(balanced.sources) == expected
    assert set(balanced.ids) == set(pairs.ids)  # each pair is there


@pytest.mark.parametrize(
    ("shares", "message"), [({"old": 0.5, "new": 0.1}, "'new'.* are of old, own"), ({"old": 1.0}, "lower them")]
)
def test_shares_that_cannot_be_met_are_refused(shares: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        balance_sources(make_sources(("own", 4), ("old", 2)), shares)
