"""Check one input: return a crystal that can be relaxed, or raise the reason with a remedy."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import DummySpecies, Element, IMolecule, IStructure, Lattice, Species, Structure
from pymatgen.core.sites import PeriodicSite

from e3relax_flows.core.errors import StructureError
from e3relax_flows.predict.distances import find_close_pair
from e3relax_flows.predict.moves import Geometry
from e3relax_flows.schemas.predictions import Reason

MIN_RATIO = 0.3  # of a distance to the sum of the covalent radii; real starts made by substitution go down to 0.39
MIN_DISTANCE = 0.5  # Å; the shortest known bond has 0.74
MIN_VOLUME_PER_ATOM = 0.5  # Å³; hydrogen in the core of Jupiter has 1


def check_structure(item: Any) -> Structure:
    """Return `item` as a Structure that can be relaxed.

    Raises
    ------
    StructureError
        With the reason code, the value that is wrong and what to do about it.
    """
    structure = _require_structure(item)
    if len(structure) == 0:
        raise StructureError(Reason.EMPTY, "the structure has no atoms; leave it out")
    if not all(structure.lattice.pbc):
        raise StructureError(
            Reason.NOT_A_STRUCTURE,
            f"the structure is periodic along {tuple(structure.lattice.pbc)} only; give it a cell that is periodic "
            "along a, b and c, with vacuum, and Constraints(vacuum_axis='c') for a layer",
        )
    _check_species(structure)
    lattice, fractions = structure.lattice.matrix, structure.frac_coords
    if not (np.isfinite(lattice).all() and np.isfinite(fractions).all()):
        where = "the lattice" if not np.isfinite(lattice).all() else _name_site(structure, _first_not_finite(fractions))
        raise StructureError(Reason.NOT_FINITE, f"{where} has numbers that are not finite; write it again")
    _check_moments(structure)
    volume = abs(float(np.linalg.det(lattice)))
    if volume < MIN_VOLUME_PER_ATOM * len(structure):
        raise StructureError(
            Reason.ZERO_VOLUME,
            f"the cell has {volume:.3g} Å³ for {len(structure)} atoms (at least {MIN_VOLUME_PER_ATOM:g} Å³ each); "
            "check that the lattice is in Å and its vectors are independent",
        )
    pair = find_close_pair(read_numbers(structure), fractions @ lattice, lattice, MIN_RATIO, MIN_DISTANCE)
    if pair is not None:
        raise StructureError(
            Reason.OVERLAPPING,
            f"{_name_site(structure, pair.first)} and {_name_site(structure, pair.second)} are {pair.distance:.2f} Å "
            f"apart, {pair.ratio:.2f} of the sum of their covalent radii (at least {MIN_RATIO:g} and {MIN_DISTANCE:g} "
            "Å); merge them with structure.merge_sites() or enlarge the cell",
        )
    return structure


def read_numbers(structure: Structure) -> NDArray[np.int64]:
    """Atomic numbers [n_atoms]; isotopes count as their element."""
    return np.array([site.specie.Z for site in structure], dtype=np.int64)


def read_types(structure: Structure, freedom: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Types [n_atoms] of sites that symmetry may not exchange: species, magnetic moment, freedom [n_atoms, 3]."""
    moments = _group_moments([site.properties.get("magmom") for site in structure])
    keys = [
        (str(site.specie), moment, tuple(free))
        for site, moment, free in zip(structure, moments, freedom.tolist(), strict=True)
    ]
    known = {key: index for index, key in enumerate(dict.fromkeys(keys))}
    return np.array([known[key] for key in keys], dtype=np.int64)


def rebuild_structure(structure: Structure, geometry: Geometry) -> Structure:
    """The same sites, with all their properties, in another geometry."""
    lattice = Lattice(geometry.lattice, pbc=structure.lattice.pbc)
    rebuilt = copy.copy(structure)
    rebuilt.sites = [
        PeriodicSite(
            site.species,
            fractions,
            lattice,
            properties=copy.deepcopy(site.properties) if site.properties else None,
            label=None if site.label == site.species_string else site.label,
            skip_checks=True,
        )
        for site, fractions in zip(structure, geometry.fractions, strict=True)
    ]
    rebuilt.lattice = lattice
    rebuilt.properties = copy.deepcopy(structure.properties)
    return rebuilt


def _require_structure(item: Any) -> Structure:
    if isinstance(item, Structure):
        return item
    if isinstance(item, IStructure):
        return Structure(
            item.lattice,
            item.species_and_occu,
            item.frac_coords,
            charge=item._charge,
            site_properties=item.site_properties,
            labels=item.labels,
            properties=item.properties,
        )
    what, advice = f"{type(item).__name__} {str(item)[:40]!r}", "give a pymatgen Structure"
    if isinstance(item, IMolecule):
        what = f"the molecule {item.composition.reduced_formula}"
        advice = "it has no cell; put it into one with molecule.get_boxed_structure(a, b, c)"
    elif isinstance(item, str):
        advice = "read a file with Structure.from_file(...) first, or run `e3relax predict FILE`"
    elif isinstance(item, dict):
        what, advice = f"a dictionary with the keys {sorted(map(str, item))[:5]}", "use Structure.from_dict(...) first"
    elif type(item).__module__.partition(".")[0] == "ase":
        advice = "use AseAtomsAdaptor.get_structure(...) of pymatgen.io.ase first"
    raise StructureError(Reason.NOT_A_STRUCTURE, f"{what} is not a structure; {advice}")


def _check_species(structure: Structure) -> None:
    for index, site in enumerate(structure):
        dummies = [specie for specie in site.species if not _is_element(specie)]
        if dummies:
            raise StructureError(
                Reason.UNKNOWN_ELEMENT,
                f"site {index} holds {dummies[0]}, which is not an element; replace it, "
                "for instance with structure.replace_species({...}), or remove it",
            )
        if not site.is_ordered:
            raise StructureError(
                Reason.DISORDERED,
                f"site {index} is occupied by {site.species.as_dict()}; only ordered structures can be relaxed "
                "(order it first, for instance with pymatgen's OrderDisorderedStructureTransformation)",
            )


def _check_moments(structure: Structure) -> None:
    for index, site in enumerate(structure):
        if (moment := site.properties.get("magmom")) is not None and not _is_moment(moment):
            raise StructureError(
                Reason.NOT_FINITE,
                f"{_name_site(structure, index)} has the magnetic moment {moment!r}; give one number or three, in μB, "
                "or remove them with structure.remove_site_property('magmom')",
            )


def _is_element(specie: Any) -> bool:
    return isinstance(specie, Element | Species) and not isinstance(specie, DummySpecies)


def _first_not_finite(fractions: NDArray[np.float64]) -> int:
    return int(np.flatnonzero(~np.isfinite(fractions).all(axis=1))[0])


def _name_site(structure: Structure, index: int) -> str:
    return f"site {index} ({structure[index].species_string})"


def _read_moment(moment: Any) -> NDArray[np.float64]:
    """A moment [1] or [3]; that of a Magmom is in the global frame."""
    return np.atleast_1d(np.asarray(getattr(moment, "global_moment", moment), dtype=float))


def _is_moment(moment: Any) -> bool:
    if np.iscomplexobj(moment):  # NumPy would drop the imaginary part
        return False
    try:
        values = _read_moment(moment)
    except (TypeError, ValueError):  # text, or nested lists of unequal length
        return False
    return values.shape in ((1,), (3,)) and bool(np.isfinite(values).all())


def _group_moments(moments: list[Any]) -> list[tuple[int, ...]]:
    """Groups of magnetic moments that differ by less than 0.1 μB from the next; scalars, vectors or nothing."""
    if all(moment is None for moment in moments):
        return [()] * len(moments)
    values = [_read_moment(0.0 if moment is None else moment) for moment in moments]
    width = max(len(value) for value in values)
    table = np.array([np.pad(value, (width - len(value), 0)) for value in values])
    groups = np.zeros(table.shape, dtype=int)
    for column in range(width):
        order = np.argsort(table[:, column], kind="stable")
        steps = np.diff(table[order, column]) > 0.1
        groups[order, column] = np.concatenate([[0], np.cumsum(steps)])
    return [tuple(row) for row in groups.tolist()]
