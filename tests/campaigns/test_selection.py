"""The choice of candidates: exact picks on small pools, fractions, seeds, costs."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from pydantic import ValidationError

from e3relax_flows.campaigns.selection import (
    Pool,
    choose_candidates,
    divide,
    estimate_costs,
    pick_farthest,
    score_candidates,
    standardize,
)
from e3relax_flows.schemas.campaigns import Arm, Mix

LINE = np.array([[0.0], [1.0], [2.0], [4.0], [9.0], [10.0]])
MIX = Mix(scored=0.5, diverse=0.3, random=0.2)


def make_pool(n: int, seed: int = 0) -> Pool:
    rng = np.random.default_rng(seed)
    ids = [f"{number:04d}" for number in rng.permutation(n)]
    return Pool(ids, rng.uniform(0.01, 1, n), rng.uniform(1, 100, n), rng.normal(size=(n, 3)))


def reverse(pool: Pool) -> Pool:
    assert pool.embeddings is not None
    return Pool(list(pool.ids)[::-1], pool.errors[::-1], pool.costs[::-1], pool.embeddings[::-1])


def test_the_farthest_points_are_picked_one_after_the_other() -> None:
    # from 0: 10 is farthest; then 4 (4 from 0, 6 from 10), then 2 (2 from 0 and from 4), then 1 and 9 (1 each)
    assert pick_farthest(LINE, 5, [0]) == [(5, 10.0), (3, 4.0), (2, 2.0), (1, 1.0), (4, 1.0)]
    # without any before, the first is the farthest from the mean, 4.33
    assert [index for index, _ in pick_farthest(LINE, 3, [])] == [5, 0, 3]
    free = np.array([True, True, True, True, True, False])
    assert pick_farthest(LINE, 1, [0], free) == [(4, 9.0)]
    assert pick_farthest(np.array([[0.0], [np.nan], [1.0]]), 3, [0]) == [(2, 1.0)]
    assert pick_farthest(LINE, 0, []) == []


def test_channels_count_alike_in_the_latent_space() -> None:
    points = standardize(np.array([[0.0, 0.0, 7.0], [100.0, 0.0, 7.0], [0.0, 1.0, 7.0], [np.nan] * 3]))
    assert np.nanmean(points, axis=0) == pytest.approx([0, 0, 0])
    assert np.nanstd(points[:, :2], axis=0) == pytest.approx([1, 1])
    assert points[1, 0] == pytest.approx(points[2, 1])
    assert np.isnan(points[3]).all()


def test_fractions_are_divided_by_the_largest_remainders() -> None:
    assert divide(10, [0.2, 0.5, 0.3]) == [2, 5, 3]
    assert divide(7, [0.2, 0.5, 0.3]) == [1, 4, 2]  # 1.4, 3.5, 2.1
    assert divide(1, [0.2, 0.5, 0.3]) == [0, 1, 0]
    assert divide(3, [1, 0, 0]) == [3, 0, 0]


def test_the_mix_must_sum_to_one() -> None:
    with pytest.raises(ValidationError, match=r"sum to 1\.1"):
        Mix(scored=0.6, diverse=0.3, random=0.2)


def test_all_labels_are_drawn_at_random_by_default() -> None:
    pool = make_pool(200)
    chosen = choose_candidates(pool, Mix(), 20, (7, "0"))
    assert Counter(choice.arm for choice in chosen) == {Arm.RANDOM: 20}
    better = Pool(pool.ids, pool.errors[::-1].copy(), pool.costs[::-1].copy(), pool.embeddings)
    assert choose_candidates(better, Mix(), 20, (7, "0")) == chosen  # errors and costs do not enter


def test_scores_weigh_errors_by_costs_as_they_are_told() -> None:
    errors, costs = np.array([0.1, 0.2]), np.array([10.0, 40.0])
    assert score_candidates(errors, costs, "error").tolist() == [0.1, 0.2]
    assert score_candidates(errors, costs, "error_x_cost").tolist() == [1.0, 8.0]
    assert score_candidates(errors, costs, "error_per_cost") == pytest.approx([0.01, 0.005])


def test_every_arm_gets_its_share_and_nobody_is_chosen_twice() -> None:
    pool = make_pool(60)
    first = choose_candidates(pool, MIX, 20, (7, "0"))
    assert Counter(choice.arm for choice in first) == {Arm.RANDOM: 4, Arm.SCORED: 10, Arm.DIVERSE: 6}
    taken = [choice.index for choice in first]
    assert len(set(taken)) == 20
    # the scored ones are the best of those that the random arm has left
    drawn = {choice.index for choice in first if choice.arm == Arm.RANDOM}
    best = sorted(set(range(60)) - drawn, key=lambda index: -pool.errors[index])[:10]
    assert [choice.index for choice in first if choice.arm == Arm.SCORED] == best
    assert [choice.score for choice in first if choice.arm == Arm.SCORED] == [pool.errors[index] for index in best]
    second = choose_candidates(pool, MIX, 20, (7, "1"), taken=taken)
    assert not set(taken) & {choice.index for choice in second}
    third = choose_candidates(pool, MIX, 30, (7, "2"), taken=[*taken, *(choice.index for choice in second)])
    assert len(third) == 20  # no more are left
    assert {choice.index for choice in (*first, *second, *third)} == set(range(60))


def test_the_choice_depends_on_the_seed_and_not_on_the_order_of_the_pool() -> None:
    pool = make_pool(50)

    def name(pool: Pool, key: tuple[int, str], n_taken: int = 0) -> list[tuple[str, Arm]]:
        taken = [pool.ids.index(f"{number:04d}") for number in range(n_taken)]
        return [(pool.ids[c.index], c.arm) for c in choose_candidates(pool, MIX, 15, key, taken=taken)]

    assert name(pool, (1, "0")) == name(pool, (1, "0")) == name(reverse(pool), (1, "0"))
    assert name(pool, (1, "0"), 5) == name(reverse(pool), (1, "0"), 5)
    assert name(pool, (1, "0")) != name(pool, (2, "0"))
    assert name(pool, (1, "0")) != name(pool, (1, "1"))


def test_the_random_arm_is_blind_to_errors() -> None:
    pool = make_pool(400)
    choices = [choose_candidates(pool, MIX, 50, (seed, "0")) for seed in range(20)]
    drawn = [pool.errors[c.index] for chosen in choices for c in chosen if c.arm == Arm.RANDOM]
    scored = [pool.errors[c.index] for chosen in choices for c in chosen if c.arm == Arm.SCORED]
    assert len(drawn) == 200
    assert np.mean(drawn) == pytest.approx(pool.errors.mean(), abs=4 * pool.errors.std() / 200**0.5)
    assert min(scored) > 0.9


def test_what_cannot_be_predicted_or_embedded_is_not_chosen_for_it() -> None:
    errors = np.array([0.5, np.nan, 0.2, 0.9])
    pool = Pool(["a", "b", "c", "d"], errors, np.ones(4))
    chosen = choose_candidates(pool, Mix(scored=0.5, diverse=0.5, random=0), 4, (0, "0"))
    assert {choice.index for choice in chosen} == {0, 2, 3}
    # without embeddings the share of the diverse ones is drawn at random
    assert Counter(choice.arm for choice in chosen) == {Arm.SCORED: 2, Arm.RANDOM: 1}


def test_costs_grow_with_the_electrons_as_relaxations_have_shown() -> None:
    electrons = np.array([10.0, 20.0])
    assert estimate_costs(electrons).tolist() == [100.0, 400.0]
    known = [(float(n), 0.01 * n**1.5) for n in range(5, 50, 3)]
    assert estimate_costs(electrons, known) == pytest.approx([0.01 * 10**1.5, 0.01 * 20**1.5])
    assert estimate_costs(electrons, known[:5]).tolist() == [100.0, 400.0]
    # nothing can be cheaper the larger it is
    falling = [(float(n), 1.0 / n) for n in range(5, 50, 3)]
    costs = estimate_costs(electrons, falling)
    assert costs[0] == pytest.approx(costs[1])
