"""Detect cells with vacuum (molecules, chains and layers) by the gaps between their atoms.

Atoms touch when their covalent spheres are less than a limit apart. In a crystal a path from touching atom to
touching atom leads to images along three directions: frameworks with pores, stacks of layers, molecular crystals and
metals are crystals then, however large their cells. Bonds would not do: they end between the layers of graphite and
between the molecules of dry ice as they end at a vacuum. The search goes over the neighbour list of the network and
stops at the third direction.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from e3relax_flows.graphs.neighbors import find_neighbors
from e3relax_flows.predict.distances import RADII
from e3relax_flows.schemas.predictions import Constraints

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]
Translation = tuple[int, int, int]  # in lattice vectors

# Å between covalent spheres
VACUUM_GAP = 5.0  # a gap that is wider is vacuum
TOUCH_GAP = 4.0  # atoms that are nearer belong to the same molecule, chain or layer
FIRST_GAP = 1.0  # the search ends here in most crystals
KINDS = ("a molecule or cluster", "a chain or tube", "a layer or slab")
AXES = "abc"


class Vacuum(NamedTuple):
    """The object in the vacuum."""

    rank: int  # directions in which it repeats: 0 molecule, 1 chain, 2 layer
    axis: str | None  # of a layer: the lattice vector across the vacuum where the other two lie in the layer


class _Contacts(NamedTuple):
    """Pairs of touching atoms in both directions, images included, sorted by the first."""

    first: Integers  # [n_contacts]
    second: Integers  # [n_contacts]
    offsets: Integers  # [n_contacts, 3] lattice vectors added to the second
    gaps: Floats  # [n_contacts] Å between the covalent spheres

    def within(self, reach: float) -> _Contacts:
        """Those whose gap is below `reach`, Å."""
        near = self.gaps < reach
        return _Contacts(self.first[near], self.second[near], self.offsets[near], self.gaps[near])


def find_vacuum(numbers: Integers, positions: Floats, lattice: Floats) -> Vacuum | None:
    """Detect vacuum around the atoms of a cell; None in a crystal.

    Parameters
    ----------
    numbers
        [n_atoms] atomic numbers.
    positions
        [n_atoms, 3] Å, Cartesian.
    lattice
        [3, 3] Å, rows are the vectors.
    """
    for reach in (FIRST_GAP, VACUUM_GAP):
        contacts = _list_contacts(numbers, positions, lattice, reach)
        if max(map(len, _find_translations(contacts, len(numbers)))) == 3:
            return None
    parts = _find_translations(contacts.within(TOUCH_GAP), len(numbers))
    rank = max(map(len, parts))
    if rank < 2:
        return Vacuum(rank, None)
    in_layers = [step for part in parts if len(part) == 2 for step in part]
    across = [axis for axis, steps in zip(AXES, zip(*in_layers, strict=True), strict=True) if not any(steps)]
    return Vacuum(rank, across[0] if across else None)


def describe_vacuum(vacuum: Vacuum, constraints: Constraints) -> str | None:
    """Message about vacuum with its remedy; None if the constraints keep that of a layer."""
    what = f"the cell holds {KINDS[vacuum.rank]} in vacuum (a gap of more than {VACUUM_GAP:g} Å between atoms)"
    if vacuum.rank < 2:
        return f"{what}, and the model is for crystals, which repeat along three directions"
    if constraints.holds_cell or (vacuum.axis is not None and constraints.vacuum_axis == vacuum.axis):
        return None
    if vacuum.axis is None:
        return (
            f"{what}, and no two lattice vectors lie in the layer; choose a cell of which two do and type --constrain "
            "vacuum-a, vacuum-b or vacuum-c for the third, or --constrain fix-cell"
        )
    wrong = f", not along {constraints.vacuum_axis}" if constraints.vacuum_axis else ""
    return (
        f"{what} along {vacuum.axis}{wrong}; type --constrain vacuum-{vacuum.axis} to keep it, in Python "
        f"Constraints(vacuum_axis='{vacuum.axis}')"
    )


def _list_contacts(numbers: Integers, positions: Floats, lattice: Floats, reach: float) -> _Contacts:
    radii = RADII[numbers]
    edges = find_neighbors(positions, lattice, 2 * float(radii.max()) + reach)
    vectors = positions[edges.neighbors] + edges.offsets @ lattice - positions[edges.centers]
    gaps = np.sqrt(np.square(vectors).sum(axis=1)) - radii[edges.centers] - radii[edges.neighbors]
    return _Contacts(edges.centers, edges.neighbors, edges.offsets, gaps).within(reach)


def _find_translations(contacts: _Contacts, n_atoms: int) -> list[list[Translation]]:
    """Independent translations that lead from an atom to its images along contacts, for each connected part.

    Every atom has the image at the end of one path from the first atom of its part; if a contact leads to another
    image, the difference is a translation. A part with three ends the search.
    """
    starts = np.searchsorted(contacts.first, np.arange(n_atoms + 1)).tolist()
    steps = np.column_stack([contacts.second, contacts.offsets])
    positions: dict[int, Translation] = {}
    parts: list[list[Translation]] = []
    for root in range(n_atoms):
        if root in positions:
            continue
        found: list[Translation] = []
        positions[root], queue = (0, 0, 0), [root]
        for atom in queue:
            x, y, z = positions[atom]
            for second, a, b, c in steps[starts[atom] : starts[atom + 1]].tolist():  # most searches see few atoms
                image, position = (x + a, y + b, z + c), positions.get(second)
                if position is None:
                    positions[second] = image
                    queue.append(second)
                elif image != position:
                    difference = (image[0] - position[0], image[1] - position[1], image[2] - position[2])
                    if _is_independent(difference, found):
                        found.append(difference)
                        if len(found) == 3:
                            return [found]
        parts.append(found)
    return parts


def _is_independent(step: Translation, others: list[Translation]) -> bool:
    """Whether a non-zero translation is independent of up to two independent others."""
    if not others:
        return True
    a, b, c = others[0]
    x, y, z = others[1] if len(others) == 2 else step
    normal = (b * z - c * y, c * x - a * z, a * y - b * x)
    if len(others) == 2:
        return normal[0] * step[0] + normal[1] * step[1] + normal[2] * step[2] != 0
    return any(normal)
