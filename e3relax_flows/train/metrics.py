"""Errors of predicted structures against relaxed ones, per pair and per source."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from e3relax_flows.core.geometry import STRAIN_WEIGHT_ANGSTROM, measure_displacements, measure_log_strain
from e3relax_flows.train.dataset import Pair

METRICS = ("displacement", "strain", "volume")


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
    """One number, Å, for each pair: displacement plus strain times `STRAIN_WEIGHT_ANGSTROM`."""
    return errors[:, 0] + STRAIN_WEIGHT_ANGSTROM * errors[:, 1]


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
