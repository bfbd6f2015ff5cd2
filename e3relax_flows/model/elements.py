"""Features of elements before training: position in the periodic table, radius, electronegativity.

Covalent radii (Å): Cordero et al., Dalton Trans. 2008, 2832 (sp3 carbon, low-spin metals), and 2 Å beyond curium.
Electronegativities: Pauling's scale, 0 where none is known.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MAX_Z = 118
NOBLE_GASES = (0, 2, 10, 18, 36, 54, 86, 118)
N_PERIODS, N_GROUPS = 7, 19  # the f block counts as one group more

# fmt: off
COVALENT_RADII = (
    0.31, 0.28, 1.28, 0.96, 0.84, 0.76, 0.71, 0.66, 0.57, 0.58, 1.66, 1.41, 1.21, 1.11, 1.07, 1.05, 1.02, 1.06, 2.03,
    1.76, 1.7, 1.6, 1.53, 1.39, 1.39, 1.32, 1.26, 1.24, 1.32, 1.22, 1.22, 1.2, 1.19, 1.2, 1.2, 1.16, 2.2, 1.95, 1.9,
    1.75, 1.64, 1.54, 1.47, 1.46, 1.42, 1.39, 1.45, 1.44, 1.42, 1.39, 1.39, 1.38, 1.39, 1.4, 2.44, 2.15, 2.07, 2.04,
    2.03, 2.01, 1.99, 1.98, 1.98, 1.96, 1.94, 1.92, 1.92, 1.89, 1.9, 1.87, 1.87, 1.75, 1.7, 1.62, 1.51, 1.44, 1.41,
    1.36, 1.36, 1.32, 1.45, 1.46, 1.48, 1.4, 1.5, 1.5, 2.6, 2.21, 2.15, 2.06, 2, 1.96, 1.9, 1.87, 1.8, 1.69, 2, 2, 2,
    2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2,
)
ELECTRONEGATIVITIES = (
    2.2, 0, 0.98, 1.57, 2.04, 2.55, 3.04, 3.44, 3.98, 0, 0.93, 1.31, 1.61, 1.9, 2.19, 2.58, 3.16, 0, 0.82, 1, 1.36,
    1.54, 1.63, 1.66, 1.55, 1.83, 1.88, 1.91, 1.9, 1.65, 1.81, 2.01, 2.18, 2.55, 2.96, 3, 0.82, 0.95, 1.22, 1.33,
    1.6, 2.16, 1.9, 2.2, 2.28, 2.2, 1.93, 1.69, 1.78, 1.96, 2.05, 2.1, 2.66, 2.6, 0.79, 0.89, 1.1, 1.12, 1.13, 1.14,
    1.13, 1.17, 1.2, 1.2, 1.1, 1.22, 1.23, 1.24, 1.25, 1.1, 1.27, 1.3, 1.5, 2.36, 1.9, 2.2, 2.2, 2.28, 2.54, 2, 1.62,
    2.33, 2.02, 2, 2.2, 2.2, 0.7, 0.9, 1.1, 1.3, 1.5, 1.38, 1.36, 1.28, 1.3, 1.3, 1.3, 1.3, 1.3, 1.3, 1.3, 1.3, 1.3,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
)
# fmt: on


def locate_element(number: int) -> tuple[int, int]:
    """Period (1-7) and group (1-18, or 19 for the f block) of an atomic number."""
    period = next(p for p in range(1, 8) if number <= NOBLE_GASES[p])
    place, length = number - NOBLE_GASES[period - 1], NOBLE_GASES[period] - NOBLE_GASES[period - 1]
    if place <= (1 if period == 1 else 2):
        return period, place
    from_right = length - place
    if from_right >= 16:
        return period, 19
    return period, 18 - from_right


def describe_elements() -> NDArray[np.float64]:
    """Features [119, 28] of Z = 0..118 (row 0 is empty): period and group one-hot, radius, electronegativity."""
    table = np.zeros((MAX_Z + 1, N_PERIODS + N_GROUPS + 2))
    for number in range(1, MAX_Z + 1):
        period, group = locate_element(number)
        table[number, period - 1] = 1.0
        table[number, N_PERIODS + group - 1] = 1.0
        table[number, -2] = COVALENT_RADII[number - 1]
        table[number, -1] = ELECTRONEGATIVITIES[number - 1] / 2
    return table
