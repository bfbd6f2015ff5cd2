"""What another start saves or costs a relaxation, by its error: savings, and harm that matters."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MATERIAL_RATIO, MATERIAL_DISTANCE = 1.1, 0.02  # of the start's error, and Å; a worsening beyond both costs DFT steps
RESOLUTION = 0.005  # Å; nearer to the minimum than this, a relaxation saves no more steps


def find_harmed(before: NDArray[np.float64], after: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which structures [n] are materially further from the relaxed ones than they came.

    Parameters
    ----------
    before, after
        [n] Å, combined errors of the starts and of what took their place.
    """
    return after > MATERIAL_RATIO * before + MATERIAL_DISTANCE


def measure_savings(before: NDArray[np.float64], after: NDArray[np.float64]) -> NDArray[np.float64]:
    """What is saved [n]: ln(before / after) of the combined errors, Å, neither below `RESOLUTION`."""
    return np.log(np.maximum(before, RESOLUTION) / np.maximum(after, RESOLUTION))
