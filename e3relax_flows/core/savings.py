"""Savings and material harm of another start of a relaxation, from the errors of the starts."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MATERIAL_RATIO, MATERIAL_DISTANCE = 1.1, 0.02  # of the start's error, and Å; a worsening beyond both costs DFT steps
RESOLUTION = 0.005  # Å; a start that is nearer to the minimum than this saves no more steps


def find_harmed(before: NDArray[np.float64], after: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which structures [n] are materially further from the relaxed ones than before.

    Parameters
    ----------
    before, after
        [n] Å, combined errors of the starts and of the structures that replaced them.
    """
    return after > MATERIAL_RATIO * before + MATERIAL_DISTANCE


def measure_savings(before: NDArray[np.float64], after: NDArray[np.float64]) -> NDArray[np.float64]:
    """Savings [n]: ln(before / after) of the combined errors, Å, neither below `RESOLUTION`."""
    return np.log(np.maximum(before, RESOLUTION) / np.maximum(after, RESOLUTION))
