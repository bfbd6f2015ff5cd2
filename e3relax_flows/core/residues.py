"""Residual forces and stresses of a relaxation: the largest over the free degrees of freedom, in numpy."""

from __future__ import annotations

import numpy as np

from e3relax_flows.core.geometry import Array

GPA = 0.006241509  # eV/Å^3


def measure_force(forces: Array, held: Array | None = None) -> float:
    """Largest force in the unit of `forces` [n, 3]; components where `held` [n, 3] is true do not count.

    A NaN among the forces gives NaN.
    """
    free = np.where(held, 0.0, forces) if held is not None else np.asarray(forces, dtype=float)
    return float(np.linalg.norm(free, axis=1).max(initial=0.0))


def measure_stress(stress: Array, volume: bool = True, shape: bool = True) -> float:
    """Largest component of a stress [3, 3] along the free degrees of freedom of the cell, in its unit.

    Parameters
    ----------
    volume, shape
        What of the cell was free.
    """
    pressure = np.trace(stress) / 3 * np.eye(3)
    counted = (pressure if volume else 0.0) + (stress - pressure if shape else 0.0)
    return float(np.abs(counted).max(initial=0.0))
