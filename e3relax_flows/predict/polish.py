"""Polish: some steps of a potential from an accepted prediction, with symmetry and constraints kept."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Structure

from e3relax_flows.core.errors import E3RelaxError, ModelError
from e3relax_flows.core.geometry import SWAP
from e3relax_flows.predict.constraints import Freedom
from e3relax_flows.predict.opinions import Judge, turn_right_handed

Floats = NDArray[np.float64]

CONVERGED = 0.01  # eV/Å; starts that DFT relaxes in one step are below the usual 0.05 already
MAX_VOLUME_RATIO = 1.5  # factor of the prediction's volume; beyond it the steps diverge

logger = logging.getLogger(__name__)


class PolishError(E3RelaxError):
    """A prediction that a potential could not polish; `failed` if a repetition may succeed."""

    def __init__(self, message: str, failed: bool = False) -> None:
        super().__init__(message)
        self.failed = failed


@dataclass(frozen=True)
class PolishRule:
    """Number of steps of a potential from a prediction, and whether the result is served.

    A potential improves predictions far from DFT's minimum and worsens those nearer to it than its own minimum. If its
    minimum is further from the prediction than the expected error, the potential is more likely to be wrong.
    """

    steps: int
    min_error: float  # Å; predictions with a smaller expected error are not polished
    max_move: float | None = None  # in expected errors; after a longer move the prediction itself is served

    def find_limit(self, expected_error: float | None) -> float | None:
        """The longest move that is served, Å; None: any."""
        return None if self.max_move is None or expected_error is None else self.max_move * expected_error

    @classmethod
    def from_calibration(cls, calibration: Mapping[str, Any], potential: str) -> Self | None:
        """Read the entry "polish" of a model's calibration; None if the potential is not in it.

        Raises
        ------
        ModelError
            When the entry is damaged.
        """
        entry = calibration.get("polish", {}).get(potential)
        if entry is None:
            return None
        try:
            limit = entry.get("max_move")
            return cls(int(entry["steps"]), float(entry["min_error"]), None if limit is None else float(limit))
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"the model's calibration of polish by {potential} is damaged ({error!r})") from error


def count_steps(asked: int | Literal["auto"], rule: PolishRule | None, expected_error: float | None) -> int:
    """Number of steps from one prediction; 0 if the rule cannot be applied."""
    if asked != "auto":
        return asked
    return rule.steps if rule is not None and expected_error is not None and expected_error >= rule.min_error else 0


def relax_shortly(judge: Judge, structure: Structure, freedom: Freedom, steps: int) -> tuple[Floats, Floats, int]:
    """Make at most `n_steps` optimisation steps.

    The cell relaxes if it is free in all directions; if it is free in two, only the atoms move.

    Returns
    -------
    positions, lattice
        [n_atoms, 3] and [3, 3] Å, atoms in the order and the images of the structure.
    n_steps
        Fewer if the forces have vanished.

    Raises
    ------
    PolishError
        When the potential fails or diverges.
    """
    from ase.constraints import FixAtoms
    from ase.filters import FrechetCellFilter
    from ase.optimize import BFGS
    from pymatgen.io.ase import AseAtomsAdaptor

    is_left = np.linalg.det(structure.lattice.matrix) < 0
    atoms = AseAtomsAdaptor.get_atoms(turn_right_handed(structure), msonable=False)
    if fixed := np.flatnonzero(~freedom.atoms.any(axis=1)).tolist():
        atoms.set_constraint(FixAtoms(fixed))
    volume = atoms.get_volume()
    try:
        atoms.calc = judge.calculator
        held = {"constant_volume": freedom.cell == "shape", "hydrostatic_strain": freedom.cell == "volume"}
        free: Any = FrechetCellFilter(atoms, **held) if len(freedom.axes) == 3 else atoms
        optimizer = BFGS(free, logfile=None)
        for _ in optimizer.irun(fmax=CONVERGED, steps=steps):
            ratio = atoms.get_volume() / volume
            if not 1 / MAX_VOLUME_RATIO < ratio < MAX_VOLUME_RATIO:
                raise PolishError(f"{judge.label} diverges from it: its volume becomes {ratio:.2f} times as large")
    except PolishError:
        raise
    except Exception as error:  # the boundary between structures
        logger.info("polish by %s of %s: failed, %s", judge.label, atoms.symbols, error)
        raise PolishError(f"{judge.label} failed on it: {type(error).__name__}: {error}", failed=True) from error
    if not (np.isfinite(atoms.positions).all() and np.isfinite(atoms.cell.array).all()):
        raise PolishError(f"{judge.label} gives numbers that are not finite")
    lattice = atoms.cell.array[SWAP] if is_left else atoms.cell.array
    return np.array(atoms.positions), np.array(lattice), int(optimizer.nsteps)
