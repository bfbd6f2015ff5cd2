from __future__ import annotations

import itertools

import numpy as np
import pytest

from e3relax_flows.core.geometry import find_nearest_images, make_right_handed, measure_displacements

CELLS = {
    "cubic": np.eye(3) * 4.0,
    "flat": np.diag([9.0, 8.0, 1.1]),
    "hexagonal": np.array([[3.0, 0, 0], [-1.5, 2.598, 0], [0, 0, 5.0]]),
    "skewed": np.array([[3.0, 0, 0], [7.0, 3.5, 0], [-5.0, 4.0, 4.0]]),
    "left-handed": np.array([[0, 3.0, 0], [3.3, 0, 0.4], [0, 0.2, 4.0]]),
}


@pytest.mark.parametrize("name", CELLS)
def test_nearest_images_are_those_of_a_wide_search(name):
    """Differences of all sizes: shorter and longer than half of the shortest lattice vector."""
    lattice = CELLS[name]
    rng = np.random.default_rng(3)
    steps = np.array(list(itertools.product(range(-9, 10), repeat=3)))
    for size in (0.01, 0.1, 0.5, 1.0, 2.0, 4.0):
        directions = rng.normal(size=(8, 3))
        vectors = size * directions / np.linalg.norm(directions, axis=1)[:, None]
        differences = vectors @ np.linalg.inv(lattice)
        found = find_nearest_images(differences + rng.integers(-3, 4, size=(8, 3)), lattice)
        expected = np.linalg.norm((differences[:, None] + steps) @ lattice, axis=2).min(axis=1)
        assert np.allclose(np.linalg.norm(found @ lattice, axis=1), expected, atol=1e-10)
        assert np.allclose(found - differences, np.round(found - differences), atol=1e-10)


def test_displacements_have_no_drift_and_no_images():
    rng = np.random.default_rng(4)
    start = rng.random((5, 3))
    moves = 0.02 * rng.normal(size=(5, 3))
    lattice = CELLS["skewed"]
    end = start + moves + 0.37 + rng.integers(-2, 3, size=(5, 3))
    expected = np.linalg.norm((moves - moves.mean(axis=0)) @ lattice, axis=1)
    assert np.allclose(measure_displacements(start, end, lattice), expected, atol=1e-12)


def test_a_left_handed_cell_becomes_a_right_handed_one_of_the_same_crystal() -> None:
    lattice, fractions = (
        np.array([[3.0, 0, 0], [0.5, 4, 0], [0.2, 0.1, -5]]),
        np.array([[0.1, 0.2, 0.3], [0.4, 0, 0.9]]),
    )
    turned, places = make_right_handed(lattice, fractions)
    assert np.linalg.det(turned) == pytest.approx(-np.linalg.det(lattice))
    assert places @ turned == pytest.approx(fractions @ lattice)
    assert sorted(map(tuple, turned)) == sorted(map(tuple, lattice))
    again = make_right_handed(turned, places)
    assert again[0] is turned
