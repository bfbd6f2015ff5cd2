"""Guards: limits for a prediction, each with a reason code and a message."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Element

from e3relax_flows.core.geometry import measure_log_strain
from e3relax_flows.predict.distances import find_close_pair
from e3relax_flows.predict.trust import Expectation, OpinionModel, TrustModel
from e3relax_flows.schemas.predictions import GuardLimits, Reason

Floats = NDArray[np.float64]

# No option loosens these: beyond them a cell has exploded, and a neighbour search would not end.
EXPLODED_VOLUME = 20.0  # times larger or smaller than the initial cell
EXPLODED_STRAIN = 2.0  # eigenvalue of the logarithmic strain


class GuardFailure(NamedTuple):
    """Refusal by a guard."""

    reason: Reason
    message: str


def check_exploded(initial_lattice: Floats, lattice: Floats) -> GuardFailure | None:
    """Refuse a cell beyond all limits, before anything is computed in it."""
    ratio = _measure_volume_ratio(initial_lattice, lattice)
    if not 1 / EXPLODED_VOLUME <= ratio <= EXPLODED_VOLUME:
        return GuardFailure(
            Reason.VOLUME, f"the cell exploded: {ratio:.3g} times its initial volume (never beyond {EXPLODED_VOLUME:g})"
        )
    largest = _measure_largest_strain(initial_lattice, lattice)
    if largest > EXPLODED_STRAIN:
        return GuardFailure(
            Reason.STRAIN, f"the cell exploded: strain {largest:.2f} (never beyond {EXPLODED_STRAIN:g})"
        )
    return None


def check_cell(initial_lattice: Floats, lattice: Floats, limits: GuardLimits) -> list[GuardFailure]:
    """Refuse a volume or a strain outside the limits.

    Parameters
    ----------
    initial_lattice, lattice
        [3, 3] Å, rows are the vectors.
    limits
        The user's.
    """
    failures = []
    ratio = _measure_volume_ratio(initial_lattice, lattice)
    if not limits.min_volume_ratio <= ratio <= limits.max_volume_ratio:
        failures.append(
            GuardFailure(
                Reason.VOLUME,
                f"the volume becomes {ratio:.3f} times the initial one "
                f"(limits {limits.min_volume_ratio:g} to {limits.max_volume_ratio:g})",
            )
        )
    largest = _measure_largest_strain(initial_lattice, lattice)
    if not largest <= limits.max_strain:
        failures.append(
            GuardFailure(Reason.STRAIN, f"the largest strain is {largest:.3f} (limit {limits.max_strain:g})")
        )
    return failures


def check_distances(
    numbers: NDArray[np.int64], positions: Floats, lattice: Floats, limits: GuardLimits
) -> list[GuardFailure]:
    """Refuse atoms that are nearer than `min_distance` times the sum of their covalent radii."""
    pair = find_close_pair(numbers, positions, lattice, limits.min_distance)
    if pair is None:
        return []
    return [
        GuardFailure(
            Reason.CLOSE_ATOMS,
            f"sites {pair.first} and {pair.second} come within {pair.distance:.2f} Å, {pair.ratio:.2f} of the sum of "
            f"their covalent radii (limit {limits.min_distance:g})",
        )
    ]


def check_score(score: float, limits: GuardLimits) -> list[GuardFailure]:
    """Refuse a score, Å, above the user's limit, if there is one."""
    if limits.max_score is None or score <= limits.max_score:
        return []
    return [
        GuardFailure(
            Reason.SCORE,
            f"one more application of the network would still move it by {score:.3f} Å (limit {limits.max_score:g} Å)",
        )
    ]


def check_trust(
    expectation: Expectation | None, limits: GuardLimits, calibrated: TrustModel | OpinionModel | None
) -> list[GuardFailure]:
    """Refuse a probability of harm above the user's limit, or by the model's calibration: harm, or no saving."""
    if expectation is None or calibrated is None:
        return []
    limit = calibrated.max_harm if limits.max_harm is None else limits.max_harm
    source = "the model's calibrated limit" if limits.max_harm is None else "limit"
    if expectation.harm > limit:
        further = "further" if expectation.saving is None else "more than 10 % and 0.02 Å further"
        return [
            GuardFailure(
                Reason.HARM,
                f"it may be {further} from the relaxed structure than the initial one is: probability "
                f"{expectation.harm:.2f} ({source} {limit:.2g})",
            )
        ]
    if limits.max_harm is None and expectation.saving is not None and expectation.saving <= 0:
        return [
            GuardFailure(
                Reason.NO_SAVING,
                "no saving is expected: its expected error is "
                f"{np.exp(-expectation.saving):.2f} times that of the initial structure",
            )
        ]
    return []


def check_elements(
    numbers: NDArray[np.int64], limits: GuardLimits, trained: Collection[int] | None
) -> list[GuardFailure]:
    """Refuse elements that are not among those of the training data, if these are known."""
    if limits.allow_untrained or trained is None:
        return []
    unknown = sorted(set(numbers.tolist()) - set(trained))
    if not unknown:
        return []
    symbols = ", ".join(Element.from_Z(number).symbol for number in unknown)
    return [
        GuardFailure(
            Reason.UNTRAINED,
            f"the training data of the model hold almost no {symbols} (allow_untrained in the guards accepts it)",
        )
    ]


def _measure_volume_ratio(initial_lattice: Floats, lattice: Floats) -> float:
    return float(abs(np.linalg.det(lattice) / np.linalg.det(initial_lattice)))


def _measure_largest_strain(initial_lattice: Floats, lattice: Floats) -> float:
    return float(np.abs(np.linalg.eigvalsh(measure_log_strain(initial_lattice, lattice))).max())
