"""Ids of structures: those that stores hold stay, and every value of a site is seen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from made_rutile import Color, Word, make_rutile, make_structures
from monty.json import jsanitize
from pymatgen.core import Lattice, Species, Structure
from pymatgen.electronic_structure.core import Magmom

from e3relax_flows.candidates.reading import ReadItem, read_structures
from e3relax_flows.candidates.spool import CandidateList, pack_structure, unpack_structure
from e3relax_flows.core.ids import canonicalize, identify_structure

FIELD = Path(__file__).parents[1] / "field"
# ids that stores hold; whoever changes one makes all that is stored under it strange to this release
STRUCTURES = {
    "plain": "a6331cfd794f44be",
    "two atoms": "d8d0c07577e2fd72",
    "disordered": "cb78ac00e9853efb",
    "charged": "9a3278d1a04f1f0b",
    "labels and properties": "a6331cfd794f44be",
    "sheared": "32378a064c99f1ba",
    "ions": "4fa8ee275a1fc161",
    "fractions of a charge": "5ef4c1d15f8b0f00",
    "spins": "617cd161a977c30f",
    "heavy water": "8968cd1d77fa3369",
    "collinear": "f1a7a47fd6471453",
    "whole moments": "062cfe7a3a7cbea3",
    "some moments": "00e4ef7d19a093f7",
    "array of moments": "6f6bb6ea09417e4e",
    "single precision": "4f66a1fc99723de3",
    "vectors": "d8335b786147e421",
    "array of vectors": "a63698388a27c9b2",
    "held": "fdab1b946f68cd3b",
    "held by an array": "fdab1b946f68cd3b",
    "words": "83e05a2e92ddcff0",
    "nested": "4ae7a03168c35cd2",
    "tuples": "e727c3116cc6b6ae",
    "not numbers": "2e0e5c3bdda4f758",
    "all": "adf1ede5bd400dba",
}


@pytest.mark.parametrize("name", STRUCTURES)
def test_ids_of_stored_structures_stay(name: str) -> None:
    assert identify_structure(make_structures()[name]) == STRUCTURES[name]


def move(structure: Structure, **site_properties: Any) -> str:
    return identify_structure(structure.copy(site_properties=site_properties))


def make_moments() -> dict[str, list[Any]]:
    """Moments of two sites of which no two are the same."""
    turned = Magmom([0, 0, 4], saxis=[1, 0, 0])
    return {
        "along c": [Magmom([0, 0, 4]), Magmom([0, 0, -4])],
        "along a": [Magmom([4, 0, 0]), Magmom([-4, 0, 0])],
        "along b": [Magmom([0, 4, 0]), Magmom([0, -4, 0])],
        "parallel": [Magmom([4, 0, 0]), Magmom([4, 0, 0])],
        "canted": [Magmom([4, 0, 1e-4]), Magmom([-4, 0, 1e-4])],
        "another axis": [turned, Magmom([0, 0, -4])],
        "lists": [[4.0, 0.0, 0.0], [-4.0, 0.0, 0.0]],
        "lists along b": [[0.0, 4.0, 0.0], [0.0, -4.0, 0.0]],
        "in a dictionary": [{"m": Magmom([4, 0, 0])}, {"m": Magmom([-4, 0, 0])}],
        "in another": [{"m": Magmom([0, 4, 0])}, {"m": Magmom([0, -4, 0])}],
        "in lists": [[Magmom([4, 0, 0])], [Magmom([-4, 0, 0])]],
        "in other lists": [[Magmom([0, 4, 0])], [Magmom([0, -4, 0])]],
        "numbers": [4.0, -4.0],
        "none": [None, None],
    }


def test_moments_in_other_directions_are_other_structures() -> None:
    cell = Structure(Lattice.cubic(3.9), ["Mn", "Mn"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    ids = {name: move(cell, magmom=moments) for name, moments in make_moments().items()}
    assert len({*ids.values(), identify_structure(cell)}) == len(ids) + 1
    assert ids["lists"] == move(cell, magmom=np.array([[4.0, 0, 0], [-4.0, 0, 0]]))


def test_four_orders_of_one_crystal_are_four_candidates() -> None:
    with CandidateList() as candidates:
        candidates.add(read_structures([FIELD / "vector-moments.json"]))
        assert candidates.deduplicate() == 0
        assert len({candidate.structure_id for candidate in candidates.iterate()}) == 4
        directions = [np.array(one.structure[0].properties["magmom"].moment) for one in candidates.iterate()]
    assert np.array_equal(directions, [[0, 0, 4], [4, 0, 0], [0, 4, 0], [4, 0, 0]])


@pytest.mark.parametrize("spins", [([5, 0, 0], [0, 5, 0]), (Magmom([5, 0, 0]), Magmom([0, 5, 0])), (5, -5), (5, None)])
def test_spins_of_species_are_seen(spins: tuple[Any, Any]) -> None:
    first, second = (
        Structure(Lattice.cubic(3.9), [Species("Mn", 2, spin=spin), "O"], [[0, 0, 0], [0.5] * 3]) for spin in spins
    )
    assert identify_structure(first) != identify_structure(second)
    assert identify_structure(write_and_read(first)) == identify_structure(first)
    with CandidateList() as candidates:
        candidates.add([ReadItem("first", first, None), ReadItem("second", second, None)])
        assert candidates.deduplicate() == 0


def test_what_names_of_species_round_is_seen() -> None:
    def build(charge: float, share: float) -> str:
        species = [Species("Mn", charge), {"O": share, "F": 1 - share}]
        return identify_structure(Structure(Lattice.cubic(3.9), species, [[0, 0, 0], [0.5] * 3]))

    ids = [build(charge, share) for charge in (2.333, 2.334, 2.33) for share in (0.3331, 0.3332, 0.333)]
    assert len(set(ids)) == 9


def test_spins_and_charges_of_numpy_are_those_of_python() -> None:
    plain, counted = make_rutile(), make_rutile()
    plain.add_spin_by_site([5.0, -5.0, 0.0, 0.0, 0.5, 0.0])
    counted.add_spin_by_site(np.array([5.0, -5.0, 0.0, 0.0, 0.5, 0.0]))
    assert identify_structure(plain) == identify_structure(counted)
    assert identify_structure(make_rutile(n=[np.int64(n) for n in range(6)])) == move(make_rutile(), n=list(range(6)))


def test_a_layer_is_not_the_crystal_of_the_same_cell() -> None:
    crystal = make_rutile()
    layer = crystal.copy()
    layer.lattice = Lattice(crystal.lattice.matrix, pbc=(True, True, False))
    assert identify_structure(layer) != identify_structure(crystal)


VALUES = st.one_of(
    st.none(),
    st.integers(-9, 9),
    st.floats(-9, 9).map(lambda x: round(x, 3)),
    st.lists(st.floats(-9, 9).map(lambda x: round(x, 3)), min_size=3, max_size=3).map(Magmom),
    st.lists(st.floats(-9, 9), min_size=3, max_size=3),
    st.lists(st.floats(-9, 9), min_size=3, max_size=3).map(np.array),
    st.booleans().map(np.bool_),
    st.dictionaries(st.sampled_from("ab"), st.lists(st.integers(0, 3)), max_size=2),
    st.sampled_from(["up", Color.RED, Word.NO]),
)


def write_and_read(structure: Structure) -> Structure:
    """As stores and files do it."""
    text = json.dumps(jsanitize(structure.as_dict(), recursive_msonable=True))
    return Structure.from_dict(json.loads(text))


@hypothesis_settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from(["magmom", "x", "y"]), st.lists(VALUES, min_size=6, max_size=6), min_size=1))
def test_ids_are_those_of_what_stores_give_back(site_properties: dict[str, list[Any]]) -> None:
    structure = make_rutile(**site_properties)
    assert identify_structure(write_and_read(structure)) == identify_structure(structure)
    assert unpack_structure(pack_structure(structure)) is not structure
    assert identify_structure(unpack_structure(pack_structure(structure))) == identify_structure(structure)


@hypothesis_settings(max_examples=100, deadline=None)
@given(st.lists(VALUES, min_size=6, max_size=6), st.integers(0, 5), VALUES)
def test_one_other_value_is_another_structure(values: list[Any], place: int, value: Any) -> None:
    first, second = make_rutile(x=values), make_rutile(x=[*values[:place], value, *values[place + 1 :]])
    seen = [json.dumps(canonicalize(item, digits=6), sort_keys=True) for item in (values[place], value)]
    assert (identify_structure(first) == identify_structure(second)) is (seen[0] == seen[1])
