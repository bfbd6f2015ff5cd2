"""Paired errors of two models, and the interval of their relative change when the pairs are drawn again."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from e3relax_flows.schemas.models import EvaluatedPair, EvaluationDoc
from e3relax_flows.schemas.predictions import Verdict
from e3relax_flows.train.metrics import combine_errors

Floats = NDArray[np.float64]

# fewer groups do not show how errors vary between groups; single pairs are drawn then
MIN_GROUPS = 10
DRAWS_AT_ONCE = 2_000_000
LARGEST_CHANGE = 1e6  # finite, so that documents can hold it


@dataclass(frozen=True)
class PairedErrors:
    """Errors [n], Å, of both models on the same pairs, in the order of the pair ids.

    `challenger` and `incumbent` are those of the predictions themselves; if there is none, the initial structure's.
    In the served ones a refused prediction also counts as the initial structure, where DFT would start.
    """

    challenger: Floats
    incumbent: Floats
    served_challenger: Floats
    served_incumbent: Floats
    identity: Floats
    challenger_accepted: NDArray[np.bool_]
    incumbent_accepted: NDArray[np.bool_]
    challenger_valid: NDArray[np.bool_]
    incumbent_valid: NDArray[np.bool_]
    sources: NDArray[np.str_]
    strata: NDArray[np.str_]
    groups: NDArray[np.str_] | None  # None if a pair has no group

    def __len__(self) -> int:
        return len(self.identity)


def pair_errors(challenger: EvaluationDoc, incumbent: EvaluationDoc) -> PairedErrors:
    """Put the rows of two evaluations of the same pairs side by side."""
    rows, others = (sorted(doc.rows, key=lambda row: row.pair_id) for doc in (challenger, incumbent))
    identity = combine_errors(np.array([(row.identity_displacement, row.identity_strain) for row in rows]))
    own, own_other = (read_errors(part) for part in (rows, others))
    accepted, accepted_other = (
        np.array([row.verdict == Verdict.ACCEPT for row in part], dtype=bool) for part in (rows, others)
    )
    groups = [row.group for row in rows]
    return PairedErrors(
        challenger=np.where(np.isnan(own), identity, own),
        incumbent=np.where(np.isnan(own_other), identity, own_other),
        served_challenger=np.where(accepted, own, identity),
        served_incumbent=np.where(accepted_other, own_other, identity),
        identity=identity,
        challenger_accepted=accepted,
        incumbent_accepted=accepted_other,
        challenger_valid=np.array([row.valid for row in rows], dtype=bool),
        incumbent_valid=np.array([row.valid for row in others], dtype=bool),
        sources=np.array([row.source for row in rows]),
        strata=np.array([row.stratum for row in rows]),
        groups=None if None in groups else np.array(groups),
    )


def read_errors(rows: list[EvaluatedPair]) -> Floats:
    """Combined error [n], Å, of each prediction; NaN where there is none."""
    pairs = [(row.displacement, row.strain) for row in rows]
    return combine_errors(np.array([(np.nan, np.nan) if None in pair else pair for pair in pairs], dtype=float))


def draw_sums(
    columns: Floats, groups: NDArray[np.str_] | None, n_resamples: int, seed: str
) -> tuple[Floats, int | None]:
    """Sums of the columns [m, n] over pairs drawn again with replacement: [m, n_resamples], and how many groups.

    All columns use the same draws. Pairs of a group are similar, so that groups are drawn where there are `MIN_GROUPS`
    or more of them, else single pairs (the number is then None).
    """
    n_groups = None
    if groups is not None:
        names, indices = np.unique(groups, return_inverse=True)
        if len(names) >= MIN_GROUPS:
            n_groups = len(names)
            columns = np.stack([np.bincount(indices, column, n_groups) for column in columns])
    generator = np.random.default_rng(list(seed.encode()))
    n_units = columns.shape[1]
    parts = []
    for start in range(0, n_resamples, step := max(DRAWS_AT_ONCE // n_units, 1)):
        draws = generator.integers(n_units, size=(min(step, n_resamples - start), n_units))
        parts.append(np.stack([column[draws].sum(axis=1) for column in columns]))
    return np.concatenate(parts, axis=1), n_groups


def divide_errors(errors: Floats | float, reference: Floats | float) -> Floats:
    """Relative change errors / reference - 1, at most `LARGEST_CHANGE`; two zero errors give no change."""
    ratio = np.where(np.asarray(errors) > 0, np.inf, 1.0)
    with np.errstate(over="ignore"):
        np.divide(errors, reference, out=ratio, where=np.asarray(reference) > 0)
    return np.minimum(ratio - 1.0, LARGEST_CHANGE)
