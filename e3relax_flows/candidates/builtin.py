"""Real candidates by element substitution into known prototypes, built in code; the input of the demo.

Each candidate is a known compound with one element exchanged for another, in the known compound's cell: the way
high-throughput screens make their inputs. The volume is then off by several per cent or tens of them, and the free
internal coordinates are those of the old compound. Cells of the known compounds are measured ones at room
temperature, rounded, as handbooks of crystal data give them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from pymatgen.core import Composition, Lattice, Structure
from pymatgen.symmetry.groups import SpaceGroup

Site = tuple[str, float, float, float]
Cell = tuple[float, float, float, float]


@dataclass(frozen=True)
class Substitution:
    """A known compound and the compound that replaces it.

    `cell` holds a, b, c in Å and gamma in degrees (alpha and beta are 90°) of the conventional cell; `sites` one
    site of each orbit with its fractional coordinates.
    """

    prototype: str
    known: str
    candidate: str
    space_group: str
    cell: Cell
    sites: tuple[Site, ...]

    @property
    def name(self) -> str:
        """Such as "rock salt NaBr from NaCl"."""
        return f"{self.prototype} {self.candidate} from {self.known}"

    @property
    def exchange(self) -> tuple[str, str]:
        """The element that is replaced and the one that replaces it."""
        known, candidate = set(Composition(self.known).as_dict()), set(Composition(self.candidate).as_dict())
        (old,), (new,) = known - candidate, candidate - known
        return old, new

    def build(self) -> Structure:
        """Build the primitive cell of the known compound with the element exchanged and everything else unchanged."""
        structure = build_known(self.space_group, self.cell, self.sites)
        old, new = self.exchange
        structure.replace_species({old: new})
        return structure.get_sorted_structure()


def build_known(space_group: str, cell: Cell, sites: tuple[Site, ...]) -> Structure:
    """Build the primitive cell of a compound from its conventional one."""
    _find_space_group(space_group)
    a, b, c, gamma = cell
    return Structure.from_spacegroup(
        space_group,
        Lattice.from_parameters(a, b, c, 90, 90, gamma),
        [site[0] for site in sites],
        [site[1:] for site in sites],
    ).get_primitive_structure()


@cache
def _find_space_group(symbol: str) -> SpaceGroup:
    """The space group, cached: pymatgen needs up to a second to find its operations."""
    return SpaceGroup(symbol)


def cubic(a: float) -> Cell:
    """Edges of a, right angles."""
    return (a, a, a, 90.0)


def tetragonal(a: float, c: float) -> Cell:
    """Edges of a, a and c, right angles."""
    return (a, a, c, 90.0)


def hexagonal(a: float, c: float) -> Cell:
    """Edges of a, a and c, gamma of 120°."""
    return (a, a, c, 120.0)


# Small cells of light elements first, so that the first few make a quick run with a real DFT code.
# fmt: off
SUBSTITUTIONS = (
    Substitution(
        "rock salt", "NaCl", "NaBr", "Fm-3m", cubic(5.640),
        (("Na", 0, 0, 0), ("Cl", 1 / 2, 1 / 2, 1 / 2)),
    ),
    Substitution(
        "zinc blende", "GaAs", "GaP", "F-43m", cubic(5.653),
        (("Ga", 0, 0, 0), ("As", 1 / 4, 1 / 4, 1 / 4)),
    ),
    Substitution(
        "wurtzite", "GaN", "AlN", "P6_3mc", hexagonal(3.189, 5.185),
        (("Ga", 1 / 3, 2 / 3, 0), ("N", 1 / 3, 2 / 3, 0.377)),
    ),
    Substitution(
        "rutile", "TiO2", "SnO2", "P4_2/mnm", tetragonal(4.594, 2.959),
        (("Ti", 0, 0, 0), ("O", 0.305, 0.305, 0)),
    ),
    Substitution(
        "rock salt", "CdO", "CaO", "Fm-3m", cubic(4.695),
        (("Cd", 0, 0, 0), ("O", 1 / 2, 1 / 2, 1 / 2)),
    ),
    Substitution(
        "CsCl-type", "CsCl", "CsBr", "Pm-3m", cubic(4.123),
        (("Cs", 0, 0, 0), ("Cl", 1 / 2, 1 / 2, 1 / 2)),
    ),
    Substitution(
        "fluorite", "CaF2", "SrF2", "Fm-3m", cubic(5.463),
        (("Ca", 0, 0, 0), ("F", 1 / 4, 1 / 4, 1 / 4)),
    ),
    Substitution(
        "antifluorite", "Li2S", "Na2S", "Fm-3m", cubic(5.710),
        (("S", 0, 0, 0), ("Li", 1 / 4, 1 / 4, 1 / 4)),
    ),
    Substitution(
        "half-Heusler", "ZrNiSn", "TiNiSn", "F-43m", cubic(6.110),
        (("Zr", 0, 0, 0), ("Sn", 1 / 2, 1 / 2, 1 / 2), ("Ni", 1 / 4, 1 / 4, 1 / 4)),
    ),
    Substitution(
        "half-Heusler", "LiZnP", "LiZnAs", "F-43m", cubic(5.765),
        (("Li", 1 / 2, 1 / 2, 1 / 2), ("Zn", 0, 0, 0), ("P", 1 / 4, 1 / 4, 1 / 4)),
    ),
    Substitution(
        "wurtzite", "ZnS", "CdS", "P6_3mc", hexagonal(3.823, 6.261),
        (("Zn", 1 / 3, 2 / 3, 0), ("S", 1 / 3, 2 / 3, 0.375)),
    ),
    Substitution(
        "NiAs-type", "VS", "TiS", "P6_3/mmc", hexagonal(3.330, 5.820),
        (("V", 0, 0, 0), ("S", 1 / 3, 2 / 3, 1 / 4)),
    ),
    Substitution(
        "NaFeO2-type", "LiCoO2", "LiCrO2", "R-3m", hexagonal(2.816, 14.05),
        (("Li", 0, 0, 1 / 2), ("Co", 0, 0, 0), ("O", 0, 0, 0.2605)),
    ),
    Substitution(
        "delafossite", "CuAlO2", "CuGaO2", "R-3m", hexagonal(2.858, 16.96),
        (("Cu", 0, 0, 0), ("Al", 0, 0, 1 / 2), ("O", 0, 0, 0.1099)),
    ),
    Substitution(
        "perovskite", "BaSnO3", "BaZrO3", "Pm-3m", cubic(4.116),
        (("Ba", 1 / 2, 1 / 2, 1 / 2), ("Sn", 0, 0, 0), ("O", 1 / 2, 0, 0)),
    ),
    Substitution(
        "polar perovskite", "BaTiO3", "PbTiO3", "P4mm", tetragonal(3.994, 4.038),
        (("Ba", 0, 0, 0), ("Ti", 1 / 2, 1 / 2, 0.522), ("O", 1 / 2, 1 / 2, -0.022), ("O", 1 / 2, 0, 0.488)),
    ),
    Substitution(
        "anti-La2O3-type", "Mg3Bi2", "Mg3Sb2", "P-3m1", hexagonal(4.666, 7.401),
        (("Mg", 0, 0, 0), ("Mg", 1 / 3, 2 / 3, 0.63), ("Bi", 1 / 3, 2 / 3, 0.225)),
    ),
    Substitution(
        "rutile", "ZnF2", "MgF2", "P4_2/mnm", tetragonal(4.703, 3.134),
        (("Zn", 0, 0, 0), ("F", 0.303, 0.303, 0)),
    ),
    Substitution(
        "CaCl2-type", "CaCl2", "CaBr2", "Pnnm", (6.24, 6.43, 4.20, 90.0),
        (("Ca", 0, 0, 0), ("Cl", 0.275, 0.325, 0)),
    ),
    Substitution(
        "chalcopyrite", "CuGaS2", "CuInS2", "I-42d", tetragonal(5.351, 10.484),
        (("Cu", 0, 0, 0), ("Ga", 0, 0, 1 / 2), ("S", 0.2539, 1 / 4, 1 / 8)),
    ),
    Substitution(
        "corundum", "Al2O3", "Ga2O3", "R-3c", hexagonal(4.760, 12.993),
        (("Al", 0, 0, 0.3522), ("O", 0.3063, 0, 1 / 4)),
    ),
    Substitution(
        "ilmenite", "MgTiO3", "CdTiO3", "R-3", hexagonal(5.055, 13.90),
        (("Mg", 0, 0, 0.3556), ("Ti", 0, 0, 0.1456), ("O", 0.3163, 0.0215, 0.2465)),
    ),
    Substitution(
        "pyrite", "FeS2", "RuS2", "Pa-3", cubic(5.418),
        (("Fe", 0, 0, 0), ("S", 0.385, 0.385, 0.385)),
    ),
    Substitution(
        "spinel", "MgAl2O4", "MgGa2O4", "Fd-3m:2", cubic(8.083),
        (("Mg", 1 / 8, 1 / 8, 1 / 8), ("Al", 1 / 2, 1 / 2, 1 / 2), ("O", 0.2624, 0.2624, 0.2624)),
    ),
)
# fmt: on


def build_candidates() -> list[tuple[str, Structure]]:
    """Build the candidates with their names, such as "rock salt NaBr from NaCl"; primitive cells of 2 to 14 atoms.

    Examples
    --------
    The candidates of the demo:

    >>> from e3relax_flows import build_candidates
    >>> names, structures = zip(*build_candidates())
    >>> print(len(names), names[0], round(structures[0].volume, 1))
    24 rock salt NaBr from NaCl 44.9
    """
    return [(substitution.name, substitution.build()) for substitution in SUBSTITUTIONS]
