"""The benchmark of the guard: its curve and coverage from made-up predictions, and its table of real ones."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from e3relax_flows import PairSet, Predictor

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"

sys.path.insert(0, str(FOLDER))
import trust  # noqa: E402

sys.path.pop(0)
N = 200


def make_starts() -> trust.Starts:
    """Halves: predictions that halve the error and look safe, and such that double it and do not."""
    is_good = np.arange(N) % 2 == 0
    before = np.full(N, 0.2)
    after = np.where(is_good, 0.1, 0.4)
    sources = np.where(np.arange(N) < N // 2, "a", "a (near)")
    interval = np.stack([np.full(N, 0.05), np.full(N, 0.2)], axis=1)
    return trust.Starts(
        before, after, sources, is_good, np.full(N, 0.1), interval, np.where(is_good, 0.1, 0.5), np.full(N, 0.3)
    )


def test_the_curve_has_what_each_threshold_saves_and_harms():
    first, last = trust.trace(make_starts(), 2)
    assert (first.accepted, last.accepted) == (0.5, 1.0)
    assert first.saving == pytest.approx(np.log(2) / 2)
    assert last.saving == pytest.approx(0)
    assert first.harmed == {"a": pytest.approx(1 / 101), "better starts": pytest.approx(1 / 101)}
    assert last.harmed["a"] == pytest.approx(51 / 101)


def test_an_interval_holds_what_lies_in_it():
    assert trust.find_held(make_starts()).mean() == 0.5


def test_starts_are_those_of_the_predictions(capsys):
    lattices = np.stack([np.tile(4.4 * np.eye(3), (3, 1, 1)), np.tile(4.12 * np.eye(3), (3, 1, 1))])
    fractions = np.tile([[0, 0, 0], [0.5, 0.5, 0.5]], (2, 3, 1))
    pairs = PairSet(
        ["a", "b", "c"], ["mine"] * 3, np.array([0, 2, 4, 6]), np.array([55, 17, 55, 35, 37, 17]), fractions, lattices
    )
    found = trust.collect_all(Predictor.load(device="cpu"), pairs)
    assert found.sources.tolist() == ["mine"] * 3 + ["mine (near)"]
    assert found.before == pytest.approx([2.5 * np.sqrt(3) * np.log(4.4 / 4.12)] * 3 + [0], abs=1e-9)
    assert (found.after[:3] > 0).all()
    trust.print_guard(found)
    assert "| mine | 3 |" in capsys.readouterr().out
