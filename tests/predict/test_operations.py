from __future__ import annotations

import itertools
import logging

import numpy as np
import pytest
from crystals import build_prototypes
from pymatgen.core import Lattice, Structure

from e3relax_flows.predict import operations, symmetry
from e3relax_flows.predict.operations import SymmetryError, ask_moyo, ask_spglib, is_lattice_clear
from e3relax_flows.predict.symmetry import find_primitive_cell, find_space_group

NAMES = sorted(build_prototypes())
SYMPREC = 1e-2
UNCLEAR = {"monoclinic"}  # three nearly equal vectors at 99.2 degrees
# lengths and angles of primitive lattices in which moyo 0.21 does not end within 0.04 Å (tried for minutes)
ENDLESS = [
    (3.0, 3.0, 9.06, 80.5, 94.7, 120.0),
    (3.0, 3.0, 12.44, 96.9, 86.5, 119.9),
    (3.0, 3.0, 13.07, 86.8, 83.4, 60.0),
    (3.0, 3.0, 15.23, 84.4, 92.8, 120.0),
    (3.0, 3.0, 16.41, 84.8, 91.5, 90.0),
    (3.0, 3.03, 16.9, 90.1, 94.5, 90.0),
]


def read_arrays(structure: Structure):
    types = np.array([site.specie.Z for site in structure])
    return np.array(structure.lattice.matrix), np.array(structure.frac_coords), types


def reduce_arrays(structure: Structure):
    lattice, fractions, types = read_arrays(structure)
    cell = find_primitive_cell(lattice, fractions, types, SYMPREC)
    first = np.unique(cell.orbits, return_index=True)[1]
    return cell.basis @ lattice, cell.reduce_positions(fractions), types[first]


def sort_rotations(found) -> list:
    return sorted(map(tuple, found.rotations.reshape(-1, 9).tolist()))


@pytest.mark.parametrize("name", NAMES)
def test_moyo_and_spglib_find_the_same(name):
    arrays = reduce_arrays(build_prototypes()[name])
    moyo, spglib = ask_moyo(*arrays, SYMPREC), ask_spglib(*arrays, SYMPREC)
    assert (moyo is None) == (name in UNCLEAR)
    if moyo is None:
        return
    assert moyo.number == spglib.number
    assert sort_rotations(moyo) == sort_rotations(spglib)


def test_what_is_found_is_what_spglib_finds_at_any_deviation():
    """Atoms and cells off by 1e-6 to 0.1 Å: below, around and above the tolerance."""
    rng = np.random.default_rng(5)
    asked = []
    for name in ("rutile", "quartz", "perovskite", "wurtzite"):
        cell = build_prototypes()[name]
        for size in np.geomspace(1e-6, 0.1, 21):
            lattice, fractions, types = read_arrays(cell)
            fractions = fractions + size * rng.normal(size=fractions.shape) @ np.linalg.inv(lattice)
            lattice = lattice * (1 + 0.1 * size * rng.normal(size=(3, 3)))
            found = find_space_group(lattice, fractions, types, SYMPREC)
            expected = ask_spglib(lattice, fractions, types, SYMPREC)
            assert (found.number, sort_rotations(found)) == (expected.number, sort_rotations(expected)), (name, size)
            asked.append(found.number)
    assert len(set(asked)) > 6  # some keep their group, some a part of it, some nothing


@pytest.mark.parametrize(
    ("shift", "asks_spglib"), [(1e-4, False), (2e-3, False), (4e-3, True), (3e-2, True), (0.1, False)]
)
def test_spglib_is_asked_only_near_the_tolerance(monkeypatch, shift, asks_spglib):
    cell = Structure(Lattice.tetragonal(3.0, 3.4), ["Cs", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5 + shift / 3.4]])
    calls = []
    monkeypatch.setattr(symmetry, "ask_spglib", lambda *a: calls.append(a) or ask_spglib(*a))
    number = find_space_group(*read_arrays(cell), SYMPREC).number
    assert number == (123 if shift < SYMPREC else 99)
    assert bool(calls) == asks_spglib


def test_smaller_cell_is_no_answer(caplog):
    """A pair of atoms half a cell apart: operations of the smaller cell need not fit the larger one."""
    cell = Structure(Lattice.orthorhombic(6.0, 3.0, 3.0), ["Po", "Po"], [[0, 0, 0], [0.5, 0, 0]])
    with caplog.at_level(logging.DEBUG):
        assert ask_moyo(*read_arrays(cell), SYMPREC) is None
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_what_moyo_cannot_do_is_left_to_spglib(monkeypatch):
    class PanicException(BaseException):
        """As Rust's panics arrive."""

    arrays = read_arrays(build_prototypes()["rutile"])
    for error in (ValueError("no"), PanicException("index out of bounds")):

        def fail(*_, error=error, **__):
            raise error

        monkeypatch.setattr(operations.moyopy, "MoyoDataset", fail)
        assert ask_moyo(*arrays, SYMPREC) is None
        assert find_space_group(*arrays, SYMPREC).number == 136
    monkeypatch.setattr(operations.moyopy, "MoyoDataset", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        ask_moyo(*arrays, SYMPREC)


def forbid_moyo(monkeypatch):
    def fail(*_, **__):
        raise AssertionError("moyo was asked")

    monkeypatch.setattr(operations.moyopy, "MoyoDataset", fail)


@pytest.mark.parametrize("parameters", ENDLESS)
def test_moyo_is_not_asked_where_it_does_not_end(monkeypatch, parameters):
    forbid_moyo(monkeypatch)
    cell = Structure(Lattice.from_parameters(*parameters), ["Po", "At"], [[0, 0, 0], [0.13, 0.27, 0.41]])
    for matrix in (np.eye(3, dtype=int), [[1, 0, 0], [20, 1, 0], [0, -20, 1]], [[1, 1, 0], [0, 1, 0], [0, 0, 1]]):
        skewed = cell * matrix
        arrays = read_arrays(skewed)
        expected = ask_spglib(*arrays, SYMPREC)
        found = find_space_group(*arrays, SYMPREC)
        assert (found.number, sort_rotations(found)) == (expected.number, sort_rotations(expected))


def test_moyo_is_not_asked_where_a_smaller_cell_may_be_endless(monkeypatch):
    """Two smaller cells, one of them moved by more than the tolerance and less than four times as much."""
    forbid_moyo(monkeypatch)
    small = Structure(Lattice.from_parameters(*ENDLESS[0]), ["Po", "At"], [[0, 0, 0], [0.13, 0.27, 0.41]])
    cell = small * (4, 1, 1)
    cell.translate_sites([1], [0.015, 0, 0], frac_coords=False)
    arrays = read_arrays(cell)
    assert find_primitive_cell(*arrays, SYMPREC).is_trivial
    assert not find_primitive_cell(*arrays, 4 * SYMPREC).is_trivial
    assert find_space_group(*arrays, SYMPREC).number == ask_spglib(*arrays, SYMPREC).number


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_clear_lattices(scale):
    rows = {
        "cubic": (Lattice.cubic(4), True),
        "hexagonal": (Lattice.hexagonal(3, 5), True),
        "triclinic": (Lattice.from_parameters(4.1, 5.2, 6.3, 80, 95, 103), True),
        "skewed cubic": (Lattice([[4, 0, 0], [80, 4, 0], [0, -80, 4]]), True),
        "long": (Lattice.tetragonal(3, 14), True),
        "longer": (Lattice.tetragonal(3, 45), False),
        "flat": (Lattice.tetragonal(45, 3), False),
        "detour": (Lattice.orthorhombic(1.4, 164, 129), False),
        **{str(parameters): (Lattice.from_parameters(*parameters), False) for parameters in ENDLESS},
    }
    for name, (lattice, is_clear) in rows.items():
        assert is_lattice_clear(scale * lattice.matrix, 0.04) == is_clear, name


def test_moyo_is_asked_within_small_tolerances_only(monkeypatch):
    arrays = reduce_arrays(build_prototypes()["rutile"])
    assert ask_moyo(*arrays, 0.1).number == 136
    forbid_moyo(monkeypatch)
    assert ask_moyo(*arrays, 0.101) is None


def test_most_prototypes_need_no_spglib(monkeypatch):
    def fail(*_):
        raise AssertionError("spglib was asked")

    monkeypatch.setattr(symmetry, "ask_spglib", fail)
    for name in set(NAMES) - UNCLEAR:
        assert find_space_group(*read_arrays(build_prototypes()[name]), SYMPREC).number > 1 or name == "triclinic", name


def test_any_cell_ends_with_what_spglib_finds(monkeypatch):
    """Skewed cells, thin and long boxes, near lattices of two symmetries; tolerances up to an ångström."""
    rng = np.random.default_rng(11)
    asked, numbers = [], []
    monkeypatch.setattr(symmetry, "ask_moyo", lambda *a: asked.append(ask_moyo(*a)) or asked[-1])
    for trial in range(240):
        lattice = [
            lambda: rng.normal(size=(3, 3)) * 3,
            lambda: np.diag(rng.uniform(0.1, 60, 3)),
            lambda: 4 * np.eye(3) + np.tril(4.0 * rng.integers(-20, 20, size=(3, 3)), -1),
            lambda: np.diag([3.0, 3.0, rng.uniform(2, 30)]) @ (np.eye(3) + 0.02 * rng.normal(size=(3, 3))),
        ][trial % 4]()
        n = rng.integers(1, 10)
        fractions = np.round(rng.random((n, 3)) * 4) / 4 + 1e-4 * rng.normal(size=(n, 3))
        types, symprec = rng.integers(0, 2, size=n), 10 ** rng.uniform(-5, 0.1)
        results = []
        for is_asked in (True, False):
            with monkeypatch.context() as patch:
                if not is_asked:
                    patch.setattr(symmetry, "ask_moyo", lambda *_: None)
                try:
                    group = find_space_group(lattice, fractions, types, symprec)
                    results.append((group.number, sort_rotations(group)))
                except SymmetryError as error:
                    results.append(str(error))
        assert results[0] == results[1], (trial, lattice, symprec)
        numbers.append(results[0][0])
    answers = [answer for answer in asked if answer is not None]
    assert 20 < len(answers) < len(asked) < 240
    assert len(set(map(str, numbers))) > 4


def test_maps_of_a_lattice_are_those_of_all_small_matrices() -> None:
    matrices = np.array(list(itertools.product((-1, 0, 1), repeat=9))).reshape(-1, 3, 3)
    matrices = matrices[np.abs(np.rint(np.linalg.det(matrices))) == 1]
    for lattice in (
        4 * np.eye(3),
        np.diag([4.0, 4.1, 6.0]),
        Lattice.hexagonal(3, 5).matrix,
        Lattice.rhombohedral(4, 60).matrix,
    ):
        lengths = np.linalg.norm(lattice, axis=1)
        images = matrices @ lattice
        norms = np.linalg.norm(images, axis=2)
        units, axes = images / norms[:, :, None], lattice / lengths[:, None]
        changes = np.degrees(
            np.arccos(np.clip(units @ units.transpose(0, 2, 1), -1, 1)) - np.arccos(np.clip(axes @ axes.T, -1, 1))
        )
        np.einsum("nii->ni", changes)[:] = 0
        fits = (np.abs(norms - lengths) < 0.2).all(axis=1) & (np.abs(changes) < operations.WIDER_ANGLES).all(
            axis=(1, 2)
        )
        found = operations._find_maps(np.array(lattice), np.full(3, 0.2))
        assert sorted(found.reshape(-1, 9).tolist()) == sorted(matrices[fits].reshape(-1, 9).tolist())
