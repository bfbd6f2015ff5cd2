"""Errors of predicted structures against relaxed ones, per pair and per source."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from e3relax_flows.core.geometry import measure_displacements, measure_log_strain
from e3relax_flows.train.dataset import Pair

METRICS = ("displacement", "strain", "volume")
MATERIAL_RATIO, MATERIAL_DISTANCE = 1.1, 0.02  # of the start's error, and Å; a worsening beyond both costs DFT steps
RESOLUTION = 0.005  # Å; nearer to the minimum than this, a relaxation saves no more steps


def measure_pair(
    fractions: NDArray[np.float64], lattice: NDArray[np.float64], pair: Pair
) -> tuple[float, float, float]:
    """Displacement (Å, mean over atoms), strain (Frobenius norm of its logarithm) and |V/V_relaxed - 1|."""
    return (
        float(measure_displacements(fractions, pair.relaxed_fractions, pair.relaxed_lattice).mean()),
        float(np.linalg.norm(measure_log_strain(lattice, pair.relaxed_lattice))),
        float(abs(np.linalg.det(lattice) / np.linalg.det(pair.relaxed_lattice) - 1.0)),
    )


def combine_errors(errors: NDArray[np.float64]) -> NDArray[np.float64]:
    """One number, Å, for each pair: displacement plus strain times 2.5 Å, a typical atomic spacing."""
    return errors[:, 0] + 2.5 * errors[:, 1]


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


def summarize_by_source(
    errors: NDArray[np.float64],
    sources: Sequence[str],
    average: Callable[..., NDArray[np.float64]] = np.mean,
) -> dict[str, dict[str, float]]:
    """Averages of errors [n_pairs, 3] for every source, and for all pairs."""
    names = np.array(sources)
    groups = {"all": np.full(len(names), True)} | {name: names == name for name in sorted(set(sources))}
    return {
        name: dict(zip(METRICS, average(errors[mask], axis=0).tolist(), strict=True)) | {"n": int(mask.sum())}
        for name, mask in groups.items()
    }
