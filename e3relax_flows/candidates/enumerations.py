"""Chemistries of candidates: known compounds with all exchanges of their elements; built in code.

Each candidate has the cell of the known compound, independent of the sizes of its atoms: the volume is off by up to a
factor of two, as in screens of hypothetical compounds. Cells of the known compounds are measured ones at room
temperature, rounded, as handbooks of crystal data give them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from pymatgen.core import Structure

from e3relax_flows.candidates.builtin import Cell, Site, build_known, cubic, hexagonal, tetragonal
from e3relax_flows.core.errors import ConfigError
from e3relax_flows.core.ids import draw_uniform


@dataclass(frozen=True)
class Enumeration:
    """A known compound and the elements that replace its own.

    `cell` holds a, b, c in Å and gamma in degrees (alpha and beta are 90°) of the conventional cell; `sites` one
    site of each orbit with its fractional coordinates; `choices` the elements, separated by spaces, that replace each
    element of the known compound.
    """

    prototype: str
    known: str
    space_group: str
    cell: Cell
    sites: tuple[Site, ...]
    choices: dict[str, str]

    def build(self) -> list[tuple[str, Structure]]:
        """Build the primitive cells of all combinations of different elements but the known one, with their names."""
        known = build_known(self.space_group, self.cell, self.sites)
        kept = {site[0] for site in self.sites} - self.choices.keys()
        candidates = []
        for elements in product(*(choice.split() for choice in self.choices.values())):
            exchange = dict(zip(self.choices, elements, strict=True))
            if len({*elements, *kept}) < len(elements) + len(kept) or all(old == new for old, new in exchange.items()):
                continue
            species = [exchange.get(site.specie.symbol, site.specie.symbol) for site in known]
            structure = Structure(known.lattice, species, known.frac_coords).get_sorted_structure()
            candidates.append((f"{self.prototype} {structure.composition.reduced_formula}", structure))
        return candidates


def enumerate_candidates(
    enumerations: Sequence[Enumeration], n: int, max_atoms: int | None = None, seed: int = 0
) -> list[tuple[str, Structure]]:
    """Draw `n` candidates by their names from all of at most `max_atoms`, each with its name; fewer if there are fewer.

    Raises
    ------
    ConfigError
        When there is none.

    Examples
    --------
    Three of all alkali halides, borides and other families in the tables `COMMON` and `INTERSTITIAL`:

    >>> from e3relax_flows import COMMON, INTERSTITIAL, enumerate_candidates
    >>> candidates = enumerate_candidates([*COMMON[:1], *INTERSTITIAL[:1]], 3, max_atoms=4)
    >>> [name for name, _ in candidates]
    ['rock salt RbBr', 'rock salt LiI', 'rock salt KCl']
    """
    found = [candidate for enumeration in enumerations for candidate in enumeration.build()]
    found = [(name, structure) for name, structure in found if max_atoms is None or len(structure) <= max_atoms]
    if not found or n < 1:
        raise ConfigError(f"{n} candidates of at most {max_atoms} atoms are required; there are {len(found)}")
    return sorted(found, key=lambda candidate: (draw_uniform(seed, candidate[0]), candidate[0]))[:n]


_METALS = "Sc Ti V Cr Mn Fe Co Ni Y Zr Nb Mo Ru Rh Pd La Hf Ta W Re Os Ir Pt"
_THIRD = 1 / 3

# fmt: off
# Borides, carbides and nitrides of transition metals: hard, refractory, and scarce in the data of the bundled weights.
INTERSTITIAL = (
    Enumeration(
        "AlB2-type", "TiB2", "P6/mmm", hexagonal(3.030, 3.230),
        (("Ti", 0, 0, 0), ("B", _THIRD, 2 * _THIRD, 1 / 2)), {"Ti": _METALS},
    ),
    Enumeration(
        "ReB2-type", "ReB2", "P6_3/mmc", hexagonal(2.900, 7.478),
        (("Re", _THIRD, 2 * _THIRD, 1 / 4), ("B", _THIRD, 2 * _THIRD, 0.548)), {"Re": _METALS},
    ),
    Enumeration(
        "CrB-type", "CrB", "Cmcm", (2.969, 7.858, 2.932, 90.0),
        (("Cr", 0, 0.146, 1 / 4), ("B", 0, 0.435, 1 / 4)), {"Cr": _METALS},
    ),
    Enumeration(
        "FeB-type", "FeB", "Pnma", (5.502, 2.948, 4.057, 90.0),
        (("Fe", 0.180, 1 / 4, 0.125), ("B", 0.036, 1 / 4, 0.610)), {"Fe": _METALS},
    ),
    Enumeration(
        "CuAl2-type", "W2B", "I4/mcm", tetragonal(5.564, 4.740),
        (("W", 0.169, 0.669, 0), ("B", 0, 0, 1 / 4)), {"W": _METALS},
    ),
    Enumeration(
        "WC-type", "WC", "P-6m2", hexagonal(2.906, 2.837),
        (("W", 0, 0, 0), ("C", _THIRD, 2 * _THIRD, 1 / 2)), {"W": _METALS, "C": "C N"},
    ),
    Enumeration(
        "MAX phase", "Ti2AlC", "P6_3/mmc", hexagonal(3.051, 13.637),
        (("Ti", _THIRD, 2 * _THIRD, 0.084), ("Al", _THIRD, 2 * _THIRD, 3 / 4), ("C", 0, 0, 0)),
        {"Ti": "V Cr Nb Mo Ta W", "Al": "Al Si P Ga Ge As In Sn", "C": "C N"},
    ),
)

# Common salts, semiconductors and oxides, of which many are in the training data of the bundled weights.
COMMON = (
    Enumeration(
        "rock salt", "NaCl", "Fm-3m", cubic(5.640),
        (("Na", 0, 0, 0), ("Cl", 1 / 2, 1 / 2, 1 / 2)), {"Na": "Li Na K Rb", "Cl": "F Cl Br I"},
    ),
    Enumeration(
        "rock salt", "CaO", "Fm-3m", cubic(4.811),
        (("Ca", 0, 0, 0), ("O", 1 / 2, 1 / 2, 1 / 2)), {"Ca": "Mg Ca Sr Ba Cd", "O": "O S Se Te"},
    ),
    Enumeration(
        "zinc blende", "GaAs", "F-43m", cubic(5.653),
        (("Ga", 0, 0, 0), ("As", 1 / 4, 1 / 4, 1 / 4)), {"Ga": "Al Ga In", "As": "P As Sb"},
    ),
    Enumeration(
        "wurtzite", "ZnS", "P6_3mc", hexagonal(3.823, 6.261),
        (("Zn", _THIRD, 2 * _THIRD, 0), ("S", _THIRD, 2 * _THIRD, 0.375)), {"Zn": "Be Mg Zn Cd", "S": "O S Se Te"},
    ),
    Enumeration(
        "fluorite", "CaF2", "Fm-3m", cubic(5.463),
        (("Ca", 0, 0, 0), ("F", 1 / 4, 1 / 4, 1 / 4)), {"Ca": "Ca Sr Ba Cd Pb", "F": "F Cl"},
    ),
    Enumeration(
        "antifluorite", "Li2S", "Fm-3m", cubic(5.710),
        (("S", 0, 0, 0), ("Li", 1 / 4, 1 / 4, 1 / 4)), {"Li": "Li Na K Rb", "S": "O S Se Te"},
    ),
    Enumeration(
        "half-Heusler", "LiZnP", "F-43m", cubic(5.765),
        (("Li", 1 / 2, 1 / 2, 1 / 2), ("Zn", 0, 0, 0), ("P", 1 / 4, 1 / 4, 1 / 4)),
        {"Li": "Li Na K", "Zn": "Mg Zn Cd", "P": "P As Sb"},
    ),
    Enumeration(
        "perovskite", "SrTiO3", "Pm-3m", cubic(3.905),
        (("Sr", 1 / 2, 1 / 2, 1 / 2), ("Ti", 0, 0, 0), ("O", 1 / 2, 0, 0)), {"Sr": "Ca Sr Ba", "Ti": "Ti Zr Hf Sn"},
    ),
    Enumeration(
        "CdI2-type", "CdI2", "P-3m1", hexagonal(4.244, 6.859),
        (("Cd", 0, 0, 0), ("I", _THIRD, 2 * _THIRD, 0.249)), {"Cd": "Mg Ca Zn Cd", "I": "Cl Br I"},
    ),
    Enumeration(
        "CdI2-type", "TiS2", "P-3m1", hexagonal(3.407, 5.695),
        (("Ti", 0, 0, 0), ("S", _THIRD, 2 * _THIRD, 0.250)), {"Ti": "Ti Zr Hf Sn", "S": "S Se Te"},
    ),
    Enumeration(
        "rutile", "MgF2", "P4_2/mnm", tetragonal(4.621, 3.052),
        (("Mg", 0, 0, 0), ("F", 0.303, 0.303, 0)), {"Mg": "Mg Ca Zn Cd", "F": "F Cl"},
    ),
)
# fmt: on
