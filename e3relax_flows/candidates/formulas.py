"""Compare a formula that a file states with the sites that it has."""

from __future__ import annotations

from collections import defaultdict

from pymatgen.core import Composition, Element, Structure

TOLERANCE = 0.01  # relative, of the ratios between formula and sites


def find_difference(structure: Structure, formula: str) -> str | None:
    """The difference of sites and formula, in words; None if both are the same up to a factor.

    Isotopes count as their element. Ratios are compared if each site is fully occupied by one element.

    Raises
    ------
    ValueError
        When the formula cannot be read.
    """
    stated, found = _count_elements(Composition(formula)), _count_elements(structure.composition)
    if missing := _name(stated.keys() - found.keys()):
        return f"its formula {formula!r} has {missing}, and no site has"
    if extra := _name(found.keys() - stated.keys()):
        return f"its sites have {extra}, and its formula {formula!r} has not"
    ratios = [found[number] / stated[number] for number in stated]
    if structure.is_ordered and max(ratios) > (1 + TOLERANCE) * min(ratios):
        made = structure.composition.formula
        return f"its sites make {made}, not its formula {formula!r}: atoms or symmetry operations are missing"
    return None


def _count_elements(composition: Composition) -> dict[int, float]:
    """Amount of each element by its atomic number."""
    counts: dict[int, float] = defaultdict(float)
    for specie, amount in composition.items():
        if not Element.is_valid_symbol(specie.symbol):
            raise ValueError(f"{specie} is not an element")
        counts[specie.Z] += amount
    return counts


def _name(numbers: set[int]) -> str:
    return ", ".join(Element.from_Z(number).symbol for number in sorted(numbers))
