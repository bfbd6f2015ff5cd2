from __future__ import annotations

import logging

import numpy as np
import pytest
from crystals import build_prototypes
from pymatgen.core import Lattice, Structure

from e3relax_flows.predict import operations, symmetry
from e3relax_flows.predict.operations import ask_moyo, ask_spglib
from e3relax_flows.predict.symmetry import find_primitive_cell, find_space_group

NAMES = sorted(build_prototypes())
SYMPREC = 1e-2


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


def test_moyo_is_not_asked_for_cells_in_which_it_does_not_end():
    """A short vector added to the long one makes it longer by less than the tolerance."""
    cell = Structure(Lattice.orthorhombic(1.4, 164.0, 129.0), ["Po", "At"], [[0.12, 0.97, 0.69], [0.83, 0.36, 0.94]])
    assert ask_moyo(*read_arrays(cell), 0.1) is None
    assert ask_moyo(*read_arrays(cell), 1e-3) is not None
