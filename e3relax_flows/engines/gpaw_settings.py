"""Settings of GPAW that depend on the structure: cut-off by element, k-points, spin."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from pymatgen.core import Element, Structure

from e3relax_flows.core.errors import EngineError

NO_DATASET = {"Tc", "Po", "At", "Fr", "Ra"}  # and everything from Ac on
LAST_DATASET_Z = 86

# eV. Measured: where the pressure of the element in an fcc cell is within about 10 GPa·Å^3 per atom of its value at
# 1000 eV. Below it the stress is so wrong that oxides collapse (MgO at 350 eV by a third of its volume).
# Not measured, and following their block: the f elements, 4d and 5d but Mo W Pd Ag Pt Au, and Br Kr In Sn Sb Te I Xe
# Tl Pb Bi Rn.
CUTOFF, CUTOFF_D_AND_F = 400.0, 500.0
CUTOFFS = {
    **dict.fromkeys(["B", "Ne", "Mg", "K", "Ca"], 500.0),
    **dict.fromkeys(["C", "Ar", "Fe", "Co", "Cu"], 600.0),
    **dict.fromkeys(["N", "O", "F"], 800.0),
}

# Å of real space that a k-point grid stands for: 5x5x5 for primitive silicon, 4x4x4 for a cubic perovskite
K_LENGTH, K_LENGTH_METAL = 15.0, 25.0

SMEARING = 0.05  # eV


def check_datasets(structure: Structure) -> None:
    """Raise EngineError where gpaw-data 1.2.1 has no PBE dataset for an element of the structure."""
    elements = structure.composition.element_composition
    missing = sorted(el.symbol for el in elements if el.symbol in NO_DATASET or el.Z > LAST_DATASET_Z)
    if missing:
        raise EngineError(
            f"{structure.composition.reduced_formula}: GPAW has no PBE dataset for {', '.join(missing)} "
            "(none for Tc, Po, At, Fr, Ra and the actinides); use a VASP engine, or leave the structure out"
        )


def choose_cutoff(structure: Structure) -> float:
    """Plane-wave cut-off in eV that the hardest element of the structure needs."""
    return max(
        CUTOFFS.get(element.symbol, CUTOFF_D_AND_F if element.block in ("d", "f") else CUTOFF)
        for element in structure.composition.element_composition
    )


def choose_kpoints(structure: Structure, length: float = K_LENGTH, length_metal: float = K_LENGTH_METAL) -> list[int]:
    """Gamma-centred grid [3] with `length` Å (`length_metal` where all elements are metals) of real space per axis."""
    reach = length_metal if all(Element(el.symbol).is_metal for el in structure.composition.elements) else length
    spacings = 1.0 / np.linalg.norm(np.linalg.inv(structure.lattice.matrix), axis=0)  # Å between lattice planes
    return [max(1, math.ceil(reach / spacing - 0.25)) for spacing in spacings]


def prepare_magmoms(structure: Structure) -> tuple[Structure, bool]:
    """The structure with collinear moments (μB) or none, and whether it is spin-polarised.

    Raises
    ------
    EngineError
        When the moments are vectors.
    """
    moments = structure.site_properties.get("magmom")
    if moments is None:
        return structure, False
    if any(np.ndim(getattr(moment, "moment", moment)) > 0 for moment in moments):
        raise EngineError(
            f"{structure.composition.reduced_formula}: the magmom site property holds vectors; "
            "the gpaw engine is collinear, give one number with sign per site"
        )
    values = [float(moment) if moment is not None else 0.0 for moment in moments]
    prepared = structure.copy()
    if any(values):
        prepared.add_site_property("magmom", values)
    else:
        prepared.remove_site_property("magmom")
    return prepared, any(values)


def choose_settings(
    structure: Structure, length: float = K_LENGTH, length_metal: float = K_LENGTH_METAL, smearing: float = SMEARING
) -> dict[str, Any]:
    """Keyword arguments of GPAW for a structure, as the engine gpaw gives them; GPAW need not be installed.

    Parameters
    ----------
    structure
        Its cell may be right- or left-handed; k-points belong to its axes in their order.
    length, length_metal
        Å of real space per k-point axis; the second where all elements are metals.
    smearing
        eV; width of the Fermi-Dirac distribution.

    Raises
    ------
    EngineError
        When GPAW has no PBE dataset for an element.

    Examples
    --------
    >>> from pymatgen.core import Lattice, Structure
    >>> from e3relax_flows import choose_gpaw_settings
    >>> salt = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.7), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    >>> settings = choose_gpaw_settings(salt)
    >>> settings["mode"]["ecut"], settings["kpts"]["size"]
    (400.0, [3, 3, 3])
    """
    check_datasets(structure)
    return {
        "mode": {"name": "pw", "ecut": choose_cutoff(structure)},
        "xc": "PBE",
        "kpts": {"size": choose_kpoints(structure, length, length_metal), "gamma": True},
        "occupations": {"name": "fermi-dirac", "width": smearing},
    }
