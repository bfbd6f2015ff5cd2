from __future__ import annotations

import numpy as np
import pytest

from e3relax_flows.judging.bootstrap import divide_errors, draw_sums


def test_alike_pairs_are_drawn_together():
    """Twenty copies of each of 30 pairs are 30 pairs, not 600: the interval must be as wide."""
    rng = np.random.default_rng(0)
    single = np.exp(rng.normal(size=(2, 30)))
    copies = np.repeat(single, 20, axis=1)
    groups = np.repeat([f"g{k}" for k in range(30)], 20)

    def measure_width(columns, groups):
        sums, n_groups = draw_sums(columns, groups, 4000, "0")
        changes = divide_errors(sums[0], sums[1])
        return np.quantile(changes, 0.975) - np.quantile(changes, 0.025), n_groups

    width, n_groups = measure_width(single, None)
    assert n_groups is None
    together, n_groups = measure_width(copies, groups)
    assert n_groups == 30
    assert together == pytest.approx(width, rel=0.1)
    assert measure_width(copies, None)[0] < 0.4 * width
    # of nine groups nobody knows how they vary: single pairs are drawn
    assert measure_width(copies[:, :180], groups[:180])[1] is None


def test_a_bound_is_passed_by_chance_as_rarely_as_it_says():
    rng = np.random.default_rng(7)
    n_trials, n_pairs, passed = 400, 100, np.zeros(2)
    for trial in range(n_trials):
        shared, own = rng.normal(size=n_pairs), rng.normal(size=(2, n_pairs))
        columns = np.exp(0.8 * shared + 0.4 * own)  # both of the same distribution
        sums, _ = draw_sums(columns, None, 400, str(trial))
        changes = divide_errors(sums[0], sums[1])
        passed += [np.quantile(changes, 0.975) < 0, np.quantile(changes, 0.025) > 0]
    assert ((0.005 * n_trials < passed) & (passed < 0.06 * n_trials)).all(), passed
    assert passed.sum() < 0.1 * n_trials


def test_a_change_against_nothing_stays_a_number():
    errors, reference = np.array([0.0, 1.0, 1.0, 3.0, 1e308]), np.array([0.0, 0.0, 2.0, 2.0, 1e-308])
    assert divide_errors(errors, reference).tolist() == [0.0, 1e6, -0.5, 0.5, 1e6]
