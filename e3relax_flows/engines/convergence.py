"""Check the claim of a relaxation that it converged, by its residual forces and stress."""

from __future__ import annotations

from typing import Any

import numpy as np
from pymatgen.core import Structure

from e3relax_flows.core.geometry import Array
from e3relax_flows.core.residues import measure_force, measure_stress
from e3relax_flows.engines.vasp_functionals import VaspRun
from e3relax_flows.schemas.pairs import Freedom

SLACK = 2.0  # times the limit of the run; forces are written before drift and symmetry are taken out
# a run that ends by an energy criterion leaves less; one that leaves more was stopped, or its parts do not match
LARGEST_FORCE = 1.0  # eV/Å
LARGEST_STRESS = 50.0  # kbar


def ended_by_itself(run: VaspRun) -> bool:
    """Whether a VASP run could end before it used up its steps; parsers report one that could not as converged."""
    steps, criterion = run.used.get("NSW", run.asked.get("NSW")), run.get("EDIFFG")
    return (steps is None or int(steps) > 1) and (criterion is None or float(criterion) != 0)


def find_force_limit(run: VaspRun) -> float:
    """Largest force, eV/Å, of a VASP run that ended by its EDIFFG."""
    criterion = float(run.get("EDIFFG") or 0.0)
    return SLACK * -criterion if criterion < 0 else LARGEST_FORCE


def is_at_rest(
    relaxed: Structure,
    free: Freedom | None,
    forces: Any,
    stress: Any,
    force_limit: float = LARGEST_FORCE,
    pressure: float = 0.0,
) -> bool:
    """Whether the last forces and stress are those of a converged relaxation; unknown values are not checked.

    Parameters
    ----------
    free
        What was free; None: not known, and only the forces count.
    forces
        [n, 3] in eV/Å.
    stress
        [3, 3] in kbar, positive where the cell is compressed, as in documents of VASP and of atomate2.
    force_limit
        eV/Å.
    pressure
        kbar, outside.
    """
    free = free or Freedom(volume=False, shape=False)
    if free.sites and forces is not None and len(forces):
        left = measure_force(np.asarray(forces, dtype=float), _find_held(relaxed))
        if not left <= force_limit:
            return False
    if stress is None or not len(stress):
        return True
    excess = np.asarray(stress, dtype=float) - pressure * np.eye(3)
    return bool(measure_stress(excess, free.volume, free.shape) <= LARGEST_STRESS)


def _find_held(structure: Structure) -> Array | None:
    """Components [n, 3] that selective dynamics holds."""
    flags = structure.site_properties.get("selective_dynamics")
    if flags is None:
        return None
    return np.array([[not bool(flag) for flag in site] if site is not None else [False] * 3 for site in flags])
