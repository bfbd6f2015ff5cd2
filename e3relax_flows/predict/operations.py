"""The operations of a crystal's space group, from moyo if they are unambiguous and from spglib otherwise.

Both libraries do the same; moyo needs a fifth of the time. They differ where an operation deviates by about the
tolerance: then spglib decides, so that space groups agree with those of other programs.
"""

from __future__ import annotations

import itertools
import math
import os
import warnings
from typing import NamedTuple

import moyopy
import numpy as np
import spglib
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from e3relax_flows.core.geometry import reduce_lattices
from e3relax_flows.core.notes import drop_moyo_notes

ANGLE_TOLERANCE = 5.0  # degrees, between lattice vectors; that of pymatgen's SpacegroupAnalyzer

# moyo multiplies the maps of a lattice onto itself that hold within its tolerances until no new ones come. Where these
# do not form a finite group it never ends (and takes 0.5 GB a second), for cells as common as 3, 3, 9.06 Å and 80.5,
# 94.7, 120 degrees. It is used only where the maps within wider tolerances are a group; wider, since the tolerances
# refer to its own reduced vectors, which need not be ours. Of 557 unrelaxed crystals 96 % pass.
MAX_SYMPREC = 0.1  # Å
MAX_DETOUR = 0.5  # of symprec to the least by which a second step along a short vector makes a long one longer
WIDER_LENGTHS = 0.1  # of a length, in addition to symprec
WIDER_ANGLES = 10.0  # degrees
MAX_ORDER = 48  # of a finite group of integer matrices [3, 3]
STEPS = np.array([step for step in itertools.product((-1, 0, 1), repeat=3) if any(step)])
AXES = [STEPS.tolist().index(axis) for axis in np.eye(3, dtype=int).tolist()]
DIGITS = 3 ** np.arange(9)  # number matrices of -1, 0 and 1
IS_UNIMODULAR = np.abs(np.linalg.det(STEPS[np.indices((26, 26, 26)).reshape(3, -1).T])).round().reshape(26, 26, 26) == 1


class SymmetryError(Exception):
    """The space group of a crystal could not be found."""


class Operations(NamedTuple):
    """Operations (W, w) that take fractional coordinates x to W·x + w."""

    number: int  # of the space group
    rotations: NDArray[np.int64]  # [n_operations, 3, 3]
    translations: NDArray[np.float64]  # [n_operations, 3]


def ask_spglib(
    lattice: NDArray[np.float64], fractions: NDArray[np.float64], types: NDArray[np.int64], symprec: float
) -> Operations:
    """Operations that hold within `symprec`, Å; spglib also takes left-handed cells.

    Raises
    ------
    SymmetryError
        When spglib finds none.
    """
    os.environ.setdefault("SPGLIB_WARNING", "OFF")  # it would also write the returned error to stderr
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # spglib's note on its old error reports
        try:
            dataset = spglib.get_symmetry_dataset(
                (lattice, fractions, types),  # type: ignore[arg-type]
                symprec=symprec,
                angle_tolerance=ANGLE_TOLERANCE,
            )
        except spglib.SpglibError as error:
            raise SymmetryError(f"spglib found no space group with symprec {symprec:g} Å: {error}") from error
    if dataset is None:
        raise SymmetryError(f"spglib found no space group with symprec {symprec:g} Å")
    return Operations(int(dataset.number), dataset.rotations.astype(np.int64), dataset.translations)


def ask_moyo(
    lattice: NDArray[np.float64], fractions: NDArray[np.float64], types: NDArray[np.int64], symprec: float
) -> Operations | None:
    """Operations of a primitive cell that hold within `symprec`, Å; None if moyo finds none or a smaller cell.

    Also None where moyo may not terminate, which is possible in any lattice near two incompatible symmetries.
    This can be checked for the given lattice only: the cell has to be primitive within twice `symprec`. Also None where
    atoms are as near as that: spglib refuses them.
    """
    if symprec > MAX_SYMPREC or not is_lattice_clear(lattice, symprec):
        return None
    if _are_atoms_near(lattice, fractions, 2 * symprec):
        return None
    drop_moyo_notes()
    cell = moyopy.Cell(lattice.tolist(), fractions.tolist(), types.tolist())
    try:
        dataset = moyopy.MoyoDataset(
            cell, symprec=symprec, angle_tolerance=math.radians(ANGLE_TOLERANCE), rotate_basis=False
        )
    except BaseException as error:
        # an index out of bounds in Rust arrives as a PanicException, which is not an Exception
        if isinstance(error, ValueError) or type(error).__name__ == "PanicException":
            return None
        raise
    if dataset.prim_std_cell.num_atoms != len(types):
        return None
    found = dataset.operations
    return Operations(dataset.number, np.array(found.rotations, dtype=np.int64), np.array(found.translations))


def is_lattice_clear(lattice: NDArray[np.float64], symprec: float) -> bool:
    """Whether the maps of a lattice [3, 3] onto itself that hold within `symprec`, Å, and more are a group."""
    reduced = reduce_lattices(lattice[None])[0] @ lattice
    height = 1 / math.sqrt(np.square(np.linalg.inv(reduced)).sum(axis=0).max())
    lengths = np.sqrt(np.square(reduced).sum(axis=1))
    if 2 * symprec * lengths.max() > MAX_DETOUR * height**2:
        return False
    maps = _find_maps(reduced, symprec + WIDER_LENGTHS * lengths)
    if len(maps) > MAX_ORDER:
        return False
    products = (maps[:, None] @ maps).reshape(-1, 9)
    if np.abs(products).max() > 1:
        return False
    is_map = np.zeros(3**9, dtype=bool)
    is_map[(maps.reshape(-1, 9) + 1) @ DIGITS] = True
    return bool(is_map[(products + 1) @ DIGITS].all())


def _find_maps(lattice: NDArray[np.float64], tolerances: NDArray[np.float64]) -> NDArray[np.int64]:
    """Matrices [n, 3, 3] of -1, 0 and 1 that keep the lengths of the lattice vectors within `tolerances` [3], Å."""
    images = STEPS @ lattice
    lengths = np.sqrt(np.square(images).sum(axis=1))
    near = np.abs(lengths[:, None] - lengths[AXES]) < tolerances
    units = images / lengths[:, None]
    angles = np.degrees(np.arccos(np.clip(units @ units.T, -1.0, 1.0)))
    chosen = np.ix_(*map(np.flatnonzero, near.T))
    fits = IS_UNIMODULAR[chosen]
    for i, j in ((0, 1), (0, 2), (1, 2)):
        changes = angles[chosen[i], chosen[j]] - angles[AXES[i], AXES[j]]
        fits &= np.abs(changes) < WIDER_ANGLES
    places = np.nonzero(fits)
    return STEPS[np.stack([index.ravel()[place] for index, place in zip(chosen, places, strict=True)], axis=1)]


def _are_atoms_near(lattice: NDArray[np.float64], fractions: NDArray[np.float64], distance: float) -> bool:
    """Whether two atoms are nearer than `distance`, Å; in a skewed cell possibly also if they are not."""
    lengths = np.sqrt(np.square(lattice).sum(axis=1))
    reciprocals = np.sqrt(np.square(np.linalg.inv(lattice)).sum(axis=0))
    tree = cKDTree((fractions % 1.0 % 1.0) * lengths, boxsize=lengths)  # -1e-17 % 1.0 is 1.0
    return len(tree.query_pairs(distance * math.sqrt(np.square(lengths * reciprocals).sum()))) > 0
