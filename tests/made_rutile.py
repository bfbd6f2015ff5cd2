"""Crystals whose ids the tests know: rutile with all that sites may carry, and values of three enumerations."""

from __future__ import annotations

from enum import Enum, IntEnum, StrEnum
from typing import Any

import numpy as np
from pymatgen.core import Lattice, Species, Structure


def make_rutile(**site_properties: Any) -> Structure:
    lattice = Lattice([[4.594, 0, 0], [0, 4.594, 0], [0, 0, 2.9590000004]])
    fractions = [[0, 0, 0], [0.5, 0.5, 0.5], [0.3053, 0.3053, 0], [-0.3053, 0.6947, 1.0], [0.1947, 0.8053, 0.5]]
    fractions.append([0.8053, 0.1947, -0.5])
    return Structure(lattice, ["Mn"] * 2 + ["O"] * 4, fractions, site_properties=site_properties)


def make_structures() -> dict[str, Structure]:
    """Structures of which every value was seen before ids had a canonical form."""
    held = [[True, True, False], [False] * 3, *[[True] * 3] * 4]
    charged, labelled, sheared = make_rutile(), make_rutile(), make_rutile()
    charged.set_charge(-2.0)
    labelled.properties = {"source": "somewhere", "forces": np.ones((6, 3))}
    sheared.apply_strain([0.01, -0.02, 0.005])
    for number, site in enumerate(labelled):
        site.label = f"site {number}"
    ions = make_rutile()
    ions.add_oxidation_state_by_element({"Mn": 4, "O": -2})
    mixed = make_rutile()
    mixed.add_oxidation_state_by_site([2.5, 5.25, -2, -2, -1.75, -2])
    spins = make_rutile()
    spins.add_spin_by_site([5, -5, 0, 0, 0.5, 0])
    ordered = Structure(Lattice.cubic(3.7), ["Cu", "Au"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    disordered = Structure(Lattice.cubic(3.7), [{"Cu": 0.5, "Au": 0.25}, Species("O", -2)], [[0, 0, 0], [0.5] * 3])
    return {
        "plain": make_rutile(),
        "two atoms": ordered,
        "disordered": disordered,
        "charged": charged,
        "labels and properties": labelled,
        "sheared": sheared,
        "ions": ions,
        "fractions of a charge": mixed,
        "spins": spins,
        "heavy water": Structure(Lattice.cubic(3.0), ["D", "D", "O"], [[0, 0, 0.3], [0, 0.3, 0], [0, 0, 0]]),
        "collinear": make_rutile(magmom=[5.0, -5.0, 0.0, 0.0, 0.1, -0.1234567]),
        "whole moments": make_rutile(magmom=[5, -5, 0, 0, 0, 0]),
        "some moments": make_rutile(magmom=[5.0, -5.0, None, None, 0.0, 0.0]),
        "array of moments": make_rutile(magmom=np.array([5.0, -5.0, 0, 0, 0, 0])),
        "single precision": make_rutile(magmom=np.array([4.1, -4.1, 0, 0, 0, 0], dtype=np.float32)),
        "vectors": make_rutile(magmom=[[0.0, 0.0, 5.0], [5.0, 0.0, 0.0], *[[0.0] * 3] * 4]),
        "array of vectors": make_rutile(magmom=np.arange(18).reshape(6, 3) / 7),
        "held": make_rutile(selective_dynamics=held),
        "held by an array": make_rutile(selective_dynamics=np.array(held)),
        "words": make_rutile(wyckoff=list("aaffff"), note=["π", "", "x", "y", "z", "é"]),
        "nested": make_rutile(info=[{"b": [1, 2.5, None], "a": {"c": True}}, *[{}] * 5]),
        "tuples": make_rutile(velocities=[(0.1, 0.2, 0.3)] * 6),
        "not numbers": make_rutile(force=[float("nan"), float("inf"), float("-inf"), 0.0, 1e-9, 1e300]),
        "all": make_rutile(magmom=[5.0, -5.0, 0, 0, 0, 0], selective_dynamics=held, coordination_no=[6] * 6),
    }


class Color(Enum):
    RED = "red"


class Word(StrEnum):
    NO = "no"


class Number(IntEnum):
    TWO = 2
