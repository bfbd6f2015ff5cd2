"""Read the relaxation in a trajectory that ASE reads; forces and stress of its last frame show whether it converged."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pymatgen.core import Structure

from e3relax_flows.core.ase_atoms import combine_switches, convert_atoms
from e3relax_flows.core.errors import StructureError
from e3relax_flows.core.geometry import Array, measure_log_strain
from e3relax_flows.core.optional import require
from e3relax_flows.core.residues import GPA, measure_force, measure_stress
from e3relax_flows.pairs.making import HELD_STRAIN, LeftOutError
from e3relax_flows.schemas.pairs import LeftOut

LARGEST_FORCE = 0.1  # eV/Å; a trajectory whose last frame has a larger one is not converged
LARGEST_STRESS = 0.5  # GPa; it corresponds to 0.5 % of the volume of a crystal with a bulk modulus of 100 GPa
# prefixes of results in files without ASE's calculator: REF_forces is a reference, MACE_forces is not
REFERENCES = ("", "ref", "dft", "vasp", "qm")
CELL_ADVICE = "write layers with the period of their vacuum (pbc of three vectors)"
ADVICE = "give a trajectory that holds them, or give --converged if you know that it converged"


@dataclass(frozen=True)
class Trajectory:
    """First and last frame of a relaxation; energy in eV, None where the file does not hold it."""

    initial: Structure
    relaxed: Structure
    n_frames: int
    energy: float | None
    functional: str | None


def read_trajectory(path: Path, is_claimed: bool = False, pressure: float = 0.0) -> Trajectory:
    """Read the first and the last frame of a converged relaxation; constraints of any frame apply to both.

    Parameters
    ----------
    path
        A file that ASE reads.
    is_claimed
        Whether the user states that it converged; forces and stress in the file are checked nevertheless.
    pressure
        GPa, under which it was relaxed.

    Raises
    ------
    LeftOutError
        When there is no relaxation, it is not converged or not known to be, or numbers are not finite.
    """
    frames = require("ase.io", "mlip", f"reading {path.name}").read(str(path), index=":")
    if len(frames) < 2:
        raise LeftOutError(
            LeftOut.NOT_A_RELAXATION, f"{path}: {len(frames)} frame; a trajectory of a relaxation has two or more"
        )
    first, last = frames[0], frames[-1]
    if not all(frame.cell.rank == 3 and all(frame.pbc) for frame in (first, last)):
        raise LeftOutError(
            LeftOut.NOT_PERIODIC,
            f"{path}: it is not periodic along three vectors of a cell, so not a crystal; {CELL_ADVICE}",
        )
    if len(sizes := {len(frame) for frame in frames}) > 1:
        raise LeftOutError(LeftOut.SITES_DIFFER, f"{path}: it has frames of {min(sizes)} and of {max(sizes)} atoms")
    try:
        switches = combine_switches(frames)
    except StructureError as error:
        raise LeftOutError(LeftOut.CONSTRAINT, f"{path}: it was not relaxed freely: {error}") from error
    energy = _find(last, "energy")
    for name, value in (("energy", energy), ("forces", _find(last, "forces")), ("stress", _find_stress(last))):
        if value is not None and not np.isfinite(value).all():
            raise LeftOutError(LeftOut.UNREADABLE, f"{path}: its last frame has {name} that is not a finite number")
    if (left := _explain_unrest(first, last, is_claimed, pressure)) is not None:
        raise LeftOutError(LeftOut.UNCONVERGED, f"{path}: {left}")
    functional = last.info.get("functional")
    return Trajectory(
        convert_atoms(first, switches),
        convert_atoms(last, switches),
        len(frames),
        None if energy is None else float(np.ravel(energy)[0]),
        None if functional is None else str(functional),
    )


def _explain_unrest(first: Any, last: Any, is_claimed: bool, pressure: float) -> str | None:
    """Why the last frame is not known to be relaxed; None if it is."""
    forces, stress = _find(last, "forces"), _find_stress(last)
    if forces is None and not is_claimed:
        return f"its last frame holds no forces, so that convergence is not known; {ADVICE}"
    if forces is not None:
        forces = np.array(forces, dtype=float).reshape(len(last), 3)
        for constraint in last.constraints:
            constraint.adjust_forces(last, forces)
        if not (force := measure_force(forces)) <= LARGEST_FORCE:
            return f"a force of {force:.2f} eV/Å is left in the last frame, more than {LARGEST_FORCE}"
    strain = float(np.linalg.norm(measure_log_strain(first.cell.array, last.cell.array)))
    if math.isfinite(strain) and strain <= HELD_STRAIN:
        return None
    if stress is None:
        return None if is_claimed else f"its cell changes, and its last frame holds no stress; {ADVICE}"
    left = measure_stress(stress + pressure * GPA * np.eye(3)) / GPA
    if not left <= LARGEST_STRESS:
        return (
            f"a stress of {left:.2f} GPa is left in the last frame, more than {LARGEST_STRESS}; for a relaxation under "
            "pressure name it: --functional 'PBE at 20 GPa'"
        )
    return None


def _find_stress(atoms: Any) -> Array | None:
    """Stress [3, 3] in eV/Å^3, positive where the cell is stretched, also by its virial."""
    found = _find(atoms, "stress")
    if found is not None:
        return _shape_tensor(found)
    virial = _find(atoms, "virial")
    return None if virial is None else -_shape_tensor(virial) / atoms.get_volume()


def _shape_tensor(values: Any) -> Array:
    """A tensor [3, 3] from itself, its nine numbers, or six in the order of Voigt."""
    numbers = np.array(values, dtype=float).ravel()
    return numbers[[0, 5, 4, 5, 1, 3, 4, 3, 2]].reshape(3, 3) if len(numbers) == 6 else numbers.reshape(3, 3)


def _find(atoms: Any, name: str) -> Any:
    """A result of the calculator, else of a field such as REF_forces; references first."""
    results = getattr(atoms.calc, "results", {})
    if results.get(name) is not None:
        return results[name]
    named = re.compile(rf"(?:(.*?)[_-])?{name.removesuffix('s')}s*", re.IGNORECASE)
    stored = {**atoms.info, **atoms.arrays}
    found = {(match[1] or "").lower(): stored[key] for key in stored if (match := named.fullmatch(str(key)))}
    return next((found[who] for who in (*REFERENCES, *sorted(found)) if who in found), None)
