"""Reasons why two evaluations cannot be compared: missing pairs, or numbers or options that differ."""

from __future__ import annotations

import numpy as np

from e3relax_flows.judging.bootstrap import read_errors
from e3relax_flows.schemas.models import EvaluationDoc, GateLimits
from e3relax_flows.schemas.predictions import Verdict

SAME_IDENTITY = 1e-4  # Å; the same pairs on another machine


def find_gaps(challenger: EvaluationDoc, incumbent: EvaluationDoc, limits: GateLimits) -> list[str]:
    """Why two evaluations cannot be compared, in words; empty when they can."""
    gaps = [
        f"the evaluations differ in {name}: {new!r} and {old!r}"
        for name, new, old in (
            ("holdout", challenger.holdout_id, incumbent.holdout_id),
            ("options", challenger.options.model_dump_json(), incumbent.options.model_dump_json()),
        )
        if new != old
    ]
    ids, other_ids = ([row.pair_id for row in doc.rows] for doc in (challenger, incumbent))
    if doubles := len(ids) - len(set(ids)) + len(other_ids) - len(set(other_ids)):
        gaps.append(f"{doubles} rows occur twice")
    if lonely := sorted(set(ids) ^ set(other_ids)):
        gaps.append(f"{len(lonely)} pairs are in one evaluation only: {', '.join(lonely[:3])}")
    if len(ids) < limits.min_stratum:
        gaps.append(f"the holdout has {len(ids)} pairs, at least {limits.min_stratum} are needed (min_stratum)")
    for doc in (challenger, incumbent):
        missing = [
            row.pair_id
            for row in doc.rows
            if (row.displacement is None or row.strain is None) and row.verdict != Verdict.ERROR
        ]
        if missing:
            gaps.append(f"{len(missing)} predictions of model {doc.model_id} have no error: {', '.join(missing[:3])}")
    if all(row.verdict == Verdict.ERROR for doc in (challenger, incumbent) for row in doc.rows) and not gaps:
        gaps.append("neither model has a single prediction")
    return gaps or _find_other_data(challenger, incumbent)


def _find_other_data(challenger: EvaluationDoc, incumbent: EvaluationDoc) -> list[str]:
    """Signs that the same pair ids mean different pairs, or that the incumbent's numbers are not finite."""
    gaps = []
    rows, others = (sorted(doc.rows, key=lambda row: row.pair_id) for doc in (challenger, incumbent))
    keys = ("source", "group", "stratum")
    unlike = [
        row.pair_id
        for row, other in zip(rows, others, strict=True)
        if any(getattr(row, key) != getattr(other, key) for key in keys)
        or not abs(row.identity_displacement - other.identity_displacement) <= SAME_IDENTITY
        or not abs(row.identity_strain - other.identity_strain) <= SAME_IDENTITY
    ]
    if unlike:
        gaps.append(
            f"{len(unlike)} pairs differ between the evaluations in source, group, stratum or the initial "
            f"structure's error: {', '.join(unlike[:3])}"
        )
    if broken := list_infinite(incumbent):
        gaps.append(f"{len(broken)} errors of the incumbent are not finite: {', '.join(broken[:3])}")
    return gaps


def list_infinite(doc: EvaluationDoc) -> list[str]:
    """Pairs with an error that is not finite."""
    finite = np.isfinite(read_errors(doc.rows))
    return [
        row.pair_id
        for row, ok in zip(doc.rows, finite, strict=True)
        if not ok and None not in (row.displacement, row.strain)
    ]
