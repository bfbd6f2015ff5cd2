"""Candidates in the prototypes of pymatgen's AFLOW table: the prototypes themselves, or compounds put into them.

The table is that of Mehl et al., Comput. Mater. Sci. 136, S1 (2017): 288 prototypes with measured cells.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from difflib import get_close_matches
from functools import cache
from typing import Any

from pymatgen.core import Composition, Element, Structure

from e3relax_flows.candidates.reading import ReadItem
from e3relax_flows.candidates.substitutions import scale_volume
from e3relax_flows.core.errors import ConfigError
from e3relax_flows.schemas.candidates import PrototypeSource


def read_prototypes(source: PrototypeSource) -> Iterator[ReadItem]:
    """Structures of prototypes, or of every compound in every prototype of its composition.

    Elements of compound and prototype are assigned by their number in the formula, and those of equal number by
    electronegativity: LiF in rock salt, NaCl, has Li at the sites of Na.

    Raises
    ------
    ConfigError
        When a prototype is not in the table.
    """
    for word in source.prototypes:
        for name, parent in find_prototypes(word):
            if not source.compounds:
                yield ReadItem(name, parent, None)
            for compound in source.compounds:
                item = _fill(parent, name, compound, source)
                if item is not None:
                    yield item


def find_prototypes(word: str) -> list[tuple[str, Structure]]:
    """Name and primitive cell of the prototypes with a given name.

    Parameters
    ----------
    word
        AFLOW's label (AB_cF8_225_a_b), the Strukturbericht symbol (B1), a mineral (Fluorite), or a formula.

    Raises
    ------
    ConfigError
        When there is none; the nearest names are in the message.
    """
    table = _load_table()
    wanted = word.strip().lower()
    found = [entry for entry in table if wanted in entry["words"]]
    if not found:
        words = sorted({each for entry in table for each in entry["words"]})
        nearest = get_close_matches(wanted, words, n=3)
        hint = f"; near are {', '.join(nearest)}" if nearest else ""
        raise ConfigError(
            f"prototype {word!r} is not in AFLOW's table of {len(table)}{hint}; give a label such as AB_cF8_225_a_b, a "
            "Strukturbericht symbol such as B1, a mineral, or the formula of the prototype"
        )
    return [(entry["name"], entry["structure"].copy()) for entry in found]


def list_prototypes() -> Iterator[tuple[str, Structure]]:
    """Ordered prototypes of the table with their labels, as primitive cells.

    Examples
    --------
    >>> from e3relax_flows import list_prototypes
    >>> {name: structure.formula for name, structure in list_prototypes()}["AB_cF8_225_a_b"]
    'Na1 Cl1'
    """
    return ((entry["label"], entry["structure"].copy()) for entry in _load_table() if entry["structure"].is_ordered)


@cache
def _load_table() -> list[dict[str, Any]]:
    """Entries with their names, in lower case."""
    from pymatgen.analysis.prototypes._data import AFLOW_PROTOTYPE_LIBRARY

    table = []
    for entry in AFLOW_PROTOTYPE_LIBRARY:
        tags, structure = entry["tags"], entry["snl"].structure
        formula = structure.composition.reduced_formula
        symbol = tags["strukturbericht"] if tags["strukturbericht"] != "None" else ""
        minerals = [each.strip() for each in tags["mineral"].split(",")]
        words = {each.lower() for each in (tags["aflow"], symbol, formula, *minerals) if each}
        plain = Structure(structure.lattice, structure.species, structure.frac_coords).get_primitive_structure()
        name = f"{symbol or tags['aflow']} {formula}"
        table.append({"words": words, "structure": plain, "name": name, "label": tags["aflow"]})
    return table


def _fill(parent: Structure, name: str, compound: str, source: PrototypeSource) -> ReadItem | None:
    """A compound in a prototype; None where it has another composition."""
    old, new = parent.composition.reduced_composition, Composition(compound).reduced_composition
    if Counter(old.values()) != Counter(new.values()):
        return None
    exchanges: dict[Any, Any] = dict(zip(_order(old), _order(new), strict=True))
    title = f"{new.reduced_formula} in {name}"
    structure = parent.copy()
    structure.replace_species(exchanges)
    try:
        return ReadItem(title, scale_volume(structure, parent, source.volume), None)
    except Exception as error:  # the boundary between compounds: missing radii raise various errors in pymatgen
        return ReadItem(title, None, f"{title}: {error}")


def _order(composition: Composition) -> list[Element]:
    """Elements by their number and electronegativity."""
    return sorted(
        (Element(element.symbol) for element in composition),
        key=lambda element: (composition[element], element.X if element.Z not in NOBLE else 9.0, element.Z),
    )


NOBLE = frozenset({2, 10, 18})  # those without an electronegativity
