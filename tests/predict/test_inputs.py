from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from crystals import build_prototypes
from fake_networks import Identity
from pymatgen.core import DummySpecies, IStructure, Lattice, Molecule, Structure
from pymatgen.electronic_structure.core import Magmom

from e3relax_flows import Predictor
from e3relax_flows.core.errors import StructureError
from e3relax_flows.predict.inputs import check_structure, read_numbers, read_types, rebuild_structure
from e3relax_flows.predict.moves import Geometry
from e3relax_flows.schemas.predictions import Reason, Verdict

CUBE = Lattice.cubic(4.0)
TWO = [[0, 0, 0], [0.5, 0.5, 0.5]]


def break_lattice() -> Structure:
    structure = Structure(CUBE, ["Na", "Cl"], TWO)
    structure.lattice = Lattice([[np.nan, 0, 0], [0, 4, 0], [0, 0, 4]])
    return structure


BAD = {
    "nothing": (None, Reason.NOT_A_STRUCTURE, "give a pymatgen Structure"),
    "text": ("POSCAR", Reason.NOT_A_STRUCTURE, "Structure.from_file"),
    "a number": (3.5, Reason.NOT_A_STRUCTURE, "float '3.5'"),
    "a dictionary": (Structure(CUBE, ["Na"], TWO[:1]).as_dict(), Reason.NOT_A_STRUCTURE, "Structure.from_dict"),
    "a molecule": (Molecule(["O", "H"], [[0, 0, 0], [0, 0, 1]]), Reason.NOT_A_STRUCTURE, "get_boxed_structure"),
    "ASE's atoms": (Atoms("Au", cell=[3, 3, 3], pbc=True), Reason.NOT_A_STRUCTURE, "AseAtomsAdaptor"),
    "a slab without period": (
        Structure(Lattice(np.diag([4, 4, 20]), pbc=(True, True, False)), ["Au"], TWO[:1]),
        Reason.NOT_A_STRUCTURE,
        "vacuum_axis='c'",
    ),
    "no atoms": (Structure(CUBE, [], []), Reason.EMPTY, "no atoms"),
    "disorder": (Structure(CUBE, [{"Na": 0.5, "K": 0.5}, "Cl"], TWO), Reason.DISORDERED, "site 0 is occupied by"),
    "vacancies": (Structure(CUBE, ["Na", {"Cl": 0.9}], TWO), Reason.DISORDERED, "{'Cl': 0.9}"),
    "a dummy": (Structure(CUBE, ["Na", DummySpecies("X")], TWO), Reason.UNKNOWN_ELEMENT, "site 1 holds X"),
    "coincident atoms": (Structure(CUBE, ["Na", "Cl"], [[0, 0, 0], [0, 0, 1.0]]), Reason.OVERLAPPING, "0.00 Å"),
    "near atoms": (Structure(CUBE, ["Na", "Cl"], [[0, 0, 0], [0, 0, 0.19]]), Reason.OVERLAPPING, "0.76 Å apart, 0.28"),
    "its own image": (Structure(Lattice(np.diag([0.45, 9, 9])), ["H"], TWO[:1]), Reason.OVERLAPPING, "0.45 Å"),
    "a flat cell": (
        Structure(Lattice([[4, 0, 0], [0, 4, 0], [4, 4, 1e-9]]), ["Na"], TWO[:1]), Reason.ZERO_VOLUME, "Å³ for 1 atoms",
    ),
    "a tiny cell": (Structure(Lattice.cubic(0.4), ["Na"], TWO[:1]), Reason.ZERO_VOLUME, "lattice is in Å"),
    "coordinates that are not finite": (
        Structure(CUBE, ["Na", "Cl"], [[0, 0, 0], [0.5, np.inf, 0]]), Reason.NOT_FINITE, "site 1 (Cl)",
    ),
    "a moment that is none": (
        Structure(CUBE, ["Fe", "Fe"], TWO, site_properties={"magmom": [1, np.nan]}), Reason.NOT_FINITE, "site 1 (Fe)",
    ),
    "a moment in words": (
        Structure(CUBE, ["Fe", "Fe"], TWO, site_properties={"magmom": ["up", 1]}), Reason.NOT_FINITE, "moment 'up'",
    ),
    "two components": (
        Structure(CUBE, ["Fe", "Fe"], TWO, site_properties={"magmom": [[1, 2], [1, 2]]}), Reason.NOT_FINITE, "[1, 2]",
    ),
    "a lattice that is not finite": (break_lattice(), Reason.NOT_FINITE, "the lattice"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_says_what_to_do(name):
    item, reason, words = BAD[name]
    with pytest.raises(StructureError) as caught:
        check_structure(item)
    assert caught.value.code == reason
    assert words in str(caught.value)


def test_all_bad_inputs_at_once_leave_the_good_one():
    good = Structure(CUBE, ["Na", "Cl"], TWO)
    items = [item for pair in ((bad[0], good) for bad in BAD.values()) for item in pair]
    predictions = Predictor(Identity(), "m-1", {}, "cpu").predict(items)
    assert len(predictions) == 2 * len(BAD)
    for (item, reason, _), prediction in zip(BAD.values(), predictions[::2], strict=True):
        assert prediction.verdict == Verdict.ERROR
        assert prediction.reasons == [reason]
        assert prediction.initial is (item if isinstance(item, Structure) else None)
    assert all(prediction.verdict == Verdict.ACCEPT for prediction in predictions[1::2])


@pytest.mark.parametrize(
    "structure",
    [
        Structure(Lattice.cubic(6.0), ["H", "H"], [[0, 0, 0], [0, 0, 0.74 / 6]]),
        Structure(Lattice.cubic(3.0), ["U", "U"], [[0, 0, 0], [0.5, 0.5, 0.2]]),  # compressed to 0.56 of the radii
        Structure(Lattice.cubic(3.0), ["Og"], [[0, 0, 0]]),
        Structure(Lattice([[0, 3, 3], [3, 0, 3], [30, 33, 0.1]]), ["Na"], [[0, 0, 0]]),
    ],
)
def test_unusual_but_possible_input_passes(structure):
    assert check_structure(structure) is structure


def test_isotopes_count_as_their_element():
    water = Structure(Lattice.cubic(5.0), ["D", "D+", "O"], [[0, 0, 0.2], [0, 0.2, 0], [0, 0, 0]])
    assert read_numbers(check_structure(water)).tolist() == [1, 1, 8]
    prediction = Predictor(Identity(), "m-1", {}, "cpu").predict([water])[0]
    assert prediction.verdict == Verdict.ACCEPT
    assert prediction.structure.species == water.species
    assert [site.species_string for site in prediction.structure] == [site.species_string for site in water]


def test_immutable_structures_become_mutable_ones():
    frozen = IStructure(
        CUBE, ["Na+", "Cl-"], TWO, charge=0, site_properties={"magmom": [1, 2]}, labels=["a", "b"], properties={"n": 1}
    )
    thawed = check_structure(frozen)
    assert type(thawed) is Structure
    assert (thawed.labels, thawed.site_properties, thawed.properties) == (["a", "b"], {"magmom": [1, 2]}, {"n": 1})
    assert Predictor(Identity(), "m-1", {}, "cpu").predict([frozen])[0].verdict == Verdict.ACCEPT


def test_moments_are_compared_in_one_frame():
    """A moment written along another axis is the same one; in another direction it is another."""
    upright, turned = Magmom([0, 0, 2]), Magmom.from_global_moment_and_saxis([0, 0, 2], (1, 0, 0))
    assert not np.allclose(turned.moment, upright.moment)
    free = np.ones((2, 3), dtype=bool)
    cells = [
        Structure(CUBE, ["Fe", "Fe"], TWO, site_properties={"magmom": [upright, moment]})
        for moment in (turned, Magmom([2, 0, 0]), 2.0, [0, 0, 2.0])
    ]
    assert [len(set(read_types(check_structure(cell), free).tolist())) for cell in cells] == [1, 2, 1, 1]


def test_rebuilding_changes_geometry_only():
    cell = build_prototypes()["rutile"].copy(site_properties={"magmom": list(range(6))})
    geometry = Geometry(cell.lattice.matrix * 1.1, cell.frac_coords - 2.0)
    rebuilt = rebuild_structure(cell, geometry)
    assert rebuilt.volume == pytest.approx(cell.volume * 1.331)
    assert np.allclose(rebuilt.cart_coords, (cell.frac_coords - 2.0) @ cell.lattice.matrix * 1.1)
    assert rebuilt.site_properties == cell.site_properties
    assert cell.lattice.a == pytest.approx(4.6)
