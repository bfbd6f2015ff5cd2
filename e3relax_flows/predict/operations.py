"""The operations of a crystal's space group, from moyo where they are clear and from spglib otherwise.

Both libraries do the same; moyo needs a fifth of the time. They differ where an operation deviates by about the
tolerance: then spglib has the last word, so that a space group means what it means to everybody else.
"""

from __future__ import annotations

import functools
import logging
import math
import os
import warnings
from typing import NamedTuple

import moyopy
import numpy as np
import spglib
from numpy.typing import NDArray

ANGLE_TOLERANCE = 5.0  # degrees, between lattice vectors; that of pymatgen's SpacegroupAnalyzer


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
    """Operations that hold within `symprec`, Å; left-handed cells are no matter to spglib.

    Raises
    ------
    SymmetryError
        When spglib finds none.
    """
    os.environ.setdefault("SPGLIB_WARNING", "OFF")  # it would write to stderr what is returned as an error too
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # spglib's note on its old way to report errors
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
    """Operations of a primitive cell that hold within `symprec`, Å; None where moyo finds none or a smaller cell.

    It tries all vectors of the lattice that are as long as the cell's within `symprec`. These are too many (it ran
    for minutes) where a short vector added to a long one hardly makes it longer; then it is not asked.
    """
    height = 1 / math.sqrt(np.square(np.linalg.inv(lattice)).sum(axis=0).max())  # at most the shortest vector
    longest = math.sqrt(np.square(lattice).sum(axis=1).max())
    if 2 * symprec * longest > height**2:
        return None
    _drop_notes()
    cell = moyopy.Cell(lattice.tolist(), fractions.tolist(), types.tolist())
    try:
        dataset = moyopy.MoyoDataset(
            cell, symprec=symprec, angle_tolerance=math.radians(ANGLE_TOLERANCE), rotate_basis=False
        )
    except BaseException as error:
        # an index out of bounds in Rust arrives as a PanicException, which is no Exception
        if isinstance(error, ValueError) or type(error).__name__ == "PanicException":
            return None
        raise
    if dataset.prim_std_cell.num_atoms != len(types):
        return None
    found = dataset.operations
    return Operations(dataset.number, np.array(found.rotations, dtype=np.int64), np.array(found.translations))


@functools.cache
def _drop_notes() -> None:
    """Keep moyo's notes on operations that do not fit well, which callers see from the operations, off stderr."""
    logging.getLogger("moyo").addFilter(
        lambda record: not str(record.msg).startswith(("Omitted", "Large displacement"))
    )
