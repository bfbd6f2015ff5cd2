"""Neighbour lists against brute force, in cells that break neighbour lists."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from e3relax_flows.core.errors import StructureError
from e3relax_flows.graphs.neighbors import Neighbors, find_neighbors, measure_pairs

SHELL_MARGIN = 1e-7  # Å; a pair nearer to the cutoff than this may be in or out


def measure_edges(edges: Neighbors, positions: np.ndarray, lattice: np.ndarray) -> np.ndarray:
    vectors = positions[edges.neighbors] + edges.offsets @ lattice - positions[edges.centers]
    return np.linalg.norm(vectors, axis=1)


def list_by_brute_force(positions: np.ndarray, lattice: np.ndarray, cutoff: float) -> dict[tuple[int, ...], float]:
    """Every (i, j, n1, n2, n3) with its distance: all images that the heights of the cell let within reach."""
    fractions = positions @ np.linalg.inv(lattice)
    reach = cutoff * np.linalg.norm(np.linalg.inv(lattice), axis=0)  # cutoff over the height along each vector
    found = {}
    for i in range(len(positions)):
        for j in range(len(positions)):
            apart = fractions[j] - fractions[i]
            ranges = [np.arange(np.ceil(-r - f) - 1, np.floor(r - f) + 2) for r, f in zip(reach, apart, strict=True)]
            offsets = np.stack(np.meshgrid(*ranges, indexing="ij"), axis=-1).reshape(-1, 3)
            distances = np.linalg.norm(positions[j] - positions[i] + offsets @ lattice, axis=1)
            for offset, distance in zip(offsets.astype(int), distances, strict=True):
                if distance < cutoff + SHELL_MARGIN and not (i == j and not offset.any()):
                    found[i, j, *map(int, offset)] = float(distance)
    return found


def list_edges(edges: Neighbors) -> list[tuple[int, ...]]:
    columns = np.column_stack([edges.centers, edges.neighbors, edges.offsets])
    return [tuple(row) for row in columns.tolist()]


def check_against_brute_force(positions: np.ndarray, lattice: np.ndarray, cutoff: float) -> None:
    edges = find_neighbors(positions, lattice, cutoff)
    found = list_edges(edges)
    expected = list_by_brute_force(positions, lattice, cutoff)
    assert len(found) == len(set(found))  # no duplicates
    assert set(found) <= set(expected)
    missing = {edge: distance for edge, distance in expected.items() if edge not in set(found)}
    assert all(distance > cutoff - SHELL_MARGIN for distance in missing.values()), missing
    assert {(j, i, -a, -b, -c) for i, j, a, b, c in found} == set(found)  # both directions
    assert (np.diff(edges.centers) >= 0).all()
    assert measure_edges(edges, positions, lattice).max(initial=0.0) < cutoff + SHELL_MARGIN


@st.composite
def crystals(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, float]:
    """Small, flat, skewed and left-handed cells; atoms several cells outside; cutoffs far beyond the cell."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    lattice = np.diag(rng.uniform(1.5, 6.0, 3))
    lattice = lattice @ np.linalg.qr(rng.normal(size=(3, 3)))[0]
    shears = draw(st.integers(0, 3))
    for _ in range(shears):  # a sum of lattice vectors: same crystal, more skewed cell
        k, other = rng.choice(3, size=2, replace=False)
        lattice[k] += rng.uniform(-2, 2) * lattice[other]
    if draw(st.booleans()):
        lattice = lattice[[1, 0, 2]]
    n_atoms = draw(st.integers(1, 4))
    spread = draw(st.sampled_from([0.0, 1.0, 4.0]))
    fractions = rng.uniform(0, 1, (n_atoms, 3)) + np.round(rng.uniform(-spread, spread, (n_atoms, 3)))
    volume = abs(np.linalg.det(lattice))
    cutoff = draw(st.sampled_from([1.0, 3.0, 6.0])) * min(1.0, (40 * volume / n_atoms) ** (1 / 3) / 6)
    return fractions @ lattice, lattice, cutoff


@settings(max_examples=150, deadline=None)
@given(crystals())
def test_random_cells(crystal: tuple[np.ndarray, np.ndarray, float]) -> None:
    check_against_brute_force(*crystal)


FCC = np.array([[0, 2.0, 2.0], [2.0, 0, 2.0], [2.0, 2.0, 0]])


@pytest.mark.parametrize(
    ("positions", "lattice", "cutoff"),
    [
        pytest.param(np.zeros((1, 3)), FCC, 9.0, id="one atom, cutoff three cells"),
        pytest.param(np.full((1, 3), 17.3), FCC[[1, 0, 2]], 5.0, id="one atom outside, left-handed"),
        pytest.param(np.zeros((1, 3)), np.array([[3.0, 0, 0], [14.9, 3.0, 0], [7.7, -11.2, 3.0]]), 6.0, id="skewed"),
        pytest.param(np.array([[0.0, 0, 0], [0, 0, 2.4]]), np.diag([2.5, 2.5, 40.0]), 7.0, id="slab"),
        pytest.param(np.array([[0.0, 0, 0], [0, 0, 0.8]]), np.diag([1.1, 1.2, 1.3]), 4.0, id="tiny cell"),
        pytest.param(np.array([[-1e-17, 0, 0], [2.0, 2.0, 2.0]]), np.diag([4.0, 4.0, 4.0]), 3.9, id="on the border"),
        pytest.param(np.array([[0.0, 0, 0], [30.0, 0, 0]]), np.diag([90.0, 90.0, 90.0]), 5.0, id="no neighbours"),
        pytest.param(np.array([[1.0, 1, 1], [1e4, -1e4, 5e3]]), -FCC, 4.5, id="far outside, inverted"),
    ],
)
def test_awkward_cells(positions: np.ndarray, lattice: np.ndarray, cutoff: float) -> None:
    check_against_brute_force(positions, lattice, cutoff)


def test_fcc_shells() -> None:
    edges = find_neighbors(np.zeros((1, 3)), FCC, 5.0)
    lengths, counts = np.unique(measure_edges(edges, np.zeros((1, 3)), FCC).round(6), return_counts=True)
    assert lengths == pytest.approx([8**0.5, 4.0, 24**0.5], abs=1e-6)
    assert counts.tolist() == [12, 6, 24]


def test_the_image_in_which_an_atom_is_written_only_changes_offsets() -> None:
    rng = np.random.default_rng(3)
    positions = rng.uniform(0, 1, (3, 3)) @ FCC
    moved = positions + np.array([[0, 0, 0], [2, -1, 0], [0, 0, -3]]) @ FCC
    distances = [np.sort(measure_edges(find_neighbors(p, FCC, 4.3), p, FCC)) for p in (positions, moved)]
    assert distances[0] == pytest.approx(distances[1], abs=1e-12)
    assert len(distances[0]) == len(list_by_brute_force(positions, FCC, 4.3))


@pytest.mark.parametrize(
    ("positions", "lattice", "code"),
    [
        # vesin ends the process on some of these and overflows its offsets on others
        pytest.param(np.zeros((1, 3)), np.eye(3) * np.nan, "not_finite", id="lattice not a number"),
        pytest.param(np.zeros((1, 3)), np.diag([4, 4, np.inf]), "not_finite", id="infinite lattice"),
        pytest.param(np.array([[0, 0, 0], [0, np.nan, 1]]), FCC, "not_finite", id="position not a number"),
        pytest.param(np.full((1, 3), 1e12), FCC, "not_finite", id="position absurd"),
        pytest.param(np.zeros((1, 3)), np.zeros((3, 3)), "zero_volume", id="no lattice"),
        pytest.param(np.zeros((1, 3)), np.diag([4.0, 4.0, 0.0]), "zero_volume", id="flat"),
        pytest.param(np.zeros((1, 3)), np.array([[1.0, 2, 3], [4, 5, 6], [7, 8, 9]]), "zero_volume", id="coplanar"),
        pytest.param(np.zeros((1, 3)), np.diag([4.0, 4.0, 1e-9]), "zero_volume", id="almost flat"),
        pytest.param(np.zeros((1, 3)), np.diag([1e6, 1e6, 1e-5]), "zero_volume", id="almost flat and wide"),
        pytest.param(np.zeros((1, 3)), np.diag([0.1, 0.1, 0.1]), "zero_volume", id="collapsed"),
    ],
)
def test_impossible_cells_are_refused(positions: np.ndarray, lattice: np.ndarray, code: str) -> None:
    with pytest.raises(StructureError) as caught:
        find_neighbors(positions, lattice, 4.5)
    assert caught.value.code == code


def test_a_crystal_without_atoms_has_no_edges() -> None:
    edges = find_neighbors(np.zeros((0, 3)), FCC, 4.5)
    assert edges.offsets.shape == (0, 3)
    assert len(edges.centers) == len(edges.neighbors) == 0


def test_pairs_are_one_direction_of_the_edges() -> None:
    rng = np.random.default_rng(5)
    lattice = np.diag([3.0, 4.0, 5.0]) + rng.normal(size=(3, 3)) * 0.3
    positions = rng.random((4, 3)) @ lattice
    edges = find_neighbors(positions, lattice, 3.5)
    pairs, distances = measure_pairs(positions, lattice, 3.5)
    assert 2 * len(pairs) == len(edges.centers)
    expected = np.sort(measure_edges(edges, positions, lattice))
    np.testing.assert_allclose(np.sort(np.repeat(distances, 2)), expected, rtol=0, atol=1e-12)
    both = sorted([*map(tuple, pairs.tolist()), *map(tuple, pairs[:, ::-1].tolist())])
    assert both == sorted(zip(edges.centers.tolist(), edges.neighbors.tolist(), strict=True))


def test_reverse_is_the_same_edge_in_the_other_direction() -> None:
    rng = np.random.default_rng(6)
    lattice = np.diag([2.5, 4.0, 5.0])
    edges = find_neighbors(rng.random((5, 3)) @ lattice, lattice, 4.0)
    assert edges.reverse is not None
    assert np.array_equal(edges.centers[edges.reverse], edges.neighbors)
    assert np.array_equal(edges.neighbors[edges.reverse], edges.centers)
    assert np.array_equal(edges.offsets[edges.reverse], -edges.offsets)
