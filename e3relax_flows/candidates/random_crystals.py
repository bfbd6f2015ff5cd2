"""Random crystals: other elements in pymatgen's AFLOW prototypes or in given structures, cells and sites scattered.

They are initial structures for labels of a potential, and for predictions that a retraining replays.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from pymatgen.core import Element, Structure

from e3relax_flows.candidates.aflow import list_prototypes
from e3relax_flows.candidates.substitutions import scale_volume
from e3relax_flows.core.errors import ConfigError
from e3relax_flows.core.geometry import make_right_handed

SCATTER, STRAIN, DISPLACEMENTS = 0.12, 0.03, (0.03, 0.08, 0.15)  # ln V, strain, Å: standard deviations
KIN = 8.0  # Mendeleev numbers within which an element is likely to take another's place
MAX_Z = 94
MAX_LEFT_OUT = 1000
GASES = {"H": 5.0, "N": 9.0, "O": 10.0, "F": 11.0, "Cl": 21.0}  # Å^3 per atom in solids
UNKNOWN = frozenset({"He", "Ne", "Ar", "Kr", "Xe", "Po", "At", "Rn", "Fr", "Ra"})  # potentials have hardly seen these


@dataclass(frozen=True)
class CrystalRules:
    """Which random crystals are drawn.

    Parameters
    ----------
    parents
        Ordered structures by name; None: the ordered prototypes of pymatgen's AFLOW table.
    max_atoms
        Of a parent.
    excluded
        Chemical systems (Cl-Na) of which no crystal is made.
    elements
        That may occur; None: all to Pu but noble gases, Po, At, Rn, Fr and Ra.
    size_exponent
        A parent of n atoms is drawn with a probability in proportion to n to this power.
    seed
        The k-th crystal depends on the rules alone.

    Examples
    --------
    Chlorides and bromides of sodium and potassium, and alloys of these, in prototypes of at most four atoms:

    >>> from e3relax_flows import CrystalRules, draw_crystals
    >>> rules = CrystalRules(max_atoms=4, elements=["Na", "K", "Cl", "Br"])
    >>> name, structure = next(draw_crystals(rules))
    >>> len(structure) <= 4 and structure.composition.chemical_system_set <= {"Na", "K", "Cl", "Br"}
    True
    """

    parents: Sequence[tuple[str, Structure]] | None = None
    max_atoms: int = 40
    excluded: Collection[str] = ()
    elements: Collection[str] | None = None
    size_exponent: float = -0.6
    seed: int = 0


def draw_crystals(rules: CrystalRules) -> Iterator[tuple[str, Structure]]:
    """Endless random crystals with their names.

    Each element of a parent is replaced by another one, in six of ten crystals by one near in Mendeleev's order.
    The volume is the geometric mean of two estimates (atomic radii, molar volumes of the elements), scattered by 12 %.
    45 % of the cells are strained by 3 %, and 30 % of the crystals have displaced atoms (0.03, 0.08 or 0.15 Å).

    Raises
    ------
    ConfigError
        When no parent is left, or hardly any crystal is allowed.

    Examples
    --------
    >>> from itertools import islice
    >>> from e3relax_flows import CrystalRules, draw_crystals
    >>> rules = CrystalRules(max_atoms=4, elements=["Na", "K", "Cl", "Br", "O"], seed=1)
    >>> [len(structure) <= 4 for name, structure in islice(draw_crystals(rules), 3)]
    [True, True, True]
    """
    elements = [e for e in map(Element.from_Z, range(1, MAX_Z + 1)) if _is_usable(e.symbol, rules.elements)]
    parents = _choose_parents(rules, len(elements))
    weights = np.array([len(parent) ** rules.size_exponent for _, parent in parents])
    n_left_out = 0
    for k in itertools.count():
        rng = np.random.default_rng([rules.seed, k])
        name, parent = parents[rng.choice(len(parents), p=weights / weights.sum())]
        structure = distort(replace_elements(parent, elements, rng), rng)
        if structure.chemical_system not in rules.excluded and structure.is_valid(0.6):
            n_left_out = 0
            yield f"{k} {structure.composition.reduced_formula} from {name}", structure
        elif (n_left_out := n_left_out + 1) == MAX_LEFT_OUT:
            raise ConfigError(f"{MAX_LEFT_OUT} crystals in a row are excluded; allow more elements, or exclude less")


def replace_elements(parent: Structure, elements: Sequence[Element], rng: np.random.Generator) -> Structure:
    """Put another of `elements` in the place of each element of `parent`, and estimate the volume."""
    order = np.array([element.mendeleev_no for element in elements])
    is_near, mapping = rng.random() < 0.6, dict[str, Element]()
    for old in sorted(parent.symbol_set):
        chances = np.exp(-abs(order - Element(old).mendeleev_no) / KIN) + 0.01 if is_near else np.ones(len(order))
        chances[[elements.index(new) for new in mapping.values()]] = 0  # different elements stay different
        mapping[old] = elements[rng.choice(len(elements), p=chances / chances.sum())]
    structure = Structure(parent.lattice, [mapping[site.specie.symbol] for site in parent], parent.frac_coords)
    atoms = sum(GASES.get(site.specie.symbol) or float(site.specie.molar_volume or 15) / 0.6022 for site in structure)
    structure.scale_lattice(np.sqrt(scale_volume(structure, parent, "atomic").volume * atoms))
    return structure


def distort(structure: Structure, rng: np.random.Generator) -> Structure:
    """Scatter the volume; strain some cells, displace the atoms of some crystals."""
    kind, stretch = rng.random(), np.exp(rng.normal(0, SCATTER) / 3)
    strain = rng.normal(0, STRAIN, (3, 3)) if kind < 0.45 else np.zeros((3, 3))
    moved = rng.normal(0, rng.choice(DISPLACEMENTS), (len(structure), 3)) if 0.3 < kind < 0.6 else 0.0
    lattice = stretch * structure.lattice.matrix @ (np.eye(3) + (strain + strain.T) / 2)
    return Structure(lattice, structure.species, structure.frac_coords @ lattice + moved, coords_are_cartesian=True)


def _simplify(structure: Structure) -> Structure:
    """The elements of a crystal in a right-handed cell, which some potentials need."""
    lattice, fractions = make_right_handed(structure.lattice.matrix, structure.frac_coords)
    return Structure(lattice, [site.specie.symbol for site in structure], fractions)


def _is_usable(symbol: str, wanted: Collection[str] | None) -> bool:
    return symbol not in UNKNOWN and bool(Element(symbol).atomic_radius) and (wanted is None or symbol in wanted)


def _choose_parents(rules: CrystalRules, n_elements: int) -> list[tuple[str, Structure]]:
    """Right-handed parents that the rules allow, with no more elements than there are to put into them."""
    given = list_prototypes() if rules.parents is None else rules.parents
    parents = [
        (name, _simplify(parent))
        for name, parent in given
        if len(parent) <= rules.max_atoms and len(parent.symbol_set) <= n_elements
        # volumes are estimated from the radii of the parent's elements
        if parent.is_ordered and all(_is_usable(symbol, None) for symbol in parent.symbol_set)
    ]
    if not parents:
        raise ConfigError(
            f"no parent has at most {rules.max_atoms} atoms and {n_elements} elements; allow more atoms or elements"
        )
    return parents
