"""The gate: a candidate against the incumbent on the same frozen pairs. A pure function of two evaluations.

What is compared is the mean error, displacement + 2.5 Å · strain, as relative change candidate/incumbent - 1, with a
percentile interval from pairs drawn again with replacement, both models on the same draws; whole groups are drawn
where there are ten or more. On simulated skewed errors one bound is passed by chance in about 3 % of cases from 50
pairs on and 4 to 6 % at 20, for a nominal 2.5 %; the corrected interval for skewness (BCa) is no better there.

The error judged first is that of the prediction itself, refused or not: a model that refuses more must not look
better or worse by that alone. What is served, with the initial structure in place of refused predictions, must not
become worse either, and in no stratum worse than the initial structures: there the guards have done their part.

Promoted is a candidate of which all of this holds, on the holdout:
  1. complete: both evaluations have the same pairs, options and data, and every number there;
  2. its errors are finite, and not fewer of its predictions are possible crystals than of the incumbent's;
  3. the upper end of the change is below -margin;
  4. served errors do not show it to be worse (see below), nor do the predictions' errors in any source or stratum;
  5. over all pairs its predictions, and in every source and stratum its served ones, are not shown to be worse than the
     initial structures;
and on the original holdout, where there is one, 1, 2, 4 and 5, and the upper end of the change is at most `tolerance`.

"Shown to be worse": the change is above the tolerance (against the initial structures: above 0) and the lower end of
its interval is above 0. One such sign is enough not to promote. With many strata one of them shows it by chance, so
that it is a reason to *reject* only if the lower end is above 0 also at a confidence divided among all strata judged
(Bonferroni). Strata of fewer than `min_stratum` pairs are reported; they are judged together, where they are enough.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from e3relax_flows.core.errors import ConfigError
from e3relax_flows.schemas.models import (
    Comparison,
    Decision,
    EvaluationDoc,
    GateDoc,
    GateLimits,
    identify_gate,
)
from e3relax_flows.schemas.predictions import Verdict
from e3relax_flows.train.bootstrap import PairedErrors, divide_errors, draw_sums, pair_errors, read_errors

ALL, SOURCE, STRATUM, SERVED, ORIGINAL = "all", "source: ", "stratum: ", "served: ", "original: "
SMALL_ONES = "(the small ones together)"
MANY_LOOKS = 10
SAME_IDENTITY = 1e-4  # Å; the same pairs on another machine

Mask = NDArray[np.bool_]
Floats = NDArray[np.float64]


@dataclass
class Verdicts:
    """What was found, in words with numbers, by what follows from it."""

    incomplete: list[str] = field(default_factory=list)
    reject: list[str] = field(default_factory=list)
    keep: list[str] = field(default_factory=list)
    promote: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)

    @property
    def decision(self) -> Decision:
        """The gravest of what was found; to promote, something must speak for it."""
        if self.incomplete:
            return Decision.INCOMPLETE
        if self.reject:
            return Decision.REJECT
        return Decision.PROMOTE if self.promote and not self.keep else Decision.KEEP

    @property
    def reasons(self) -> list[str]:
        """All reasons, the gravest first."""
        return self.incomplete + self.reject + self.keep + self.promote + self.remarks


@dataclass(frozen=True)
class Measured:
    """A comparison, with the lower ends of its intervals at the confidence divided among all strata."""

    comparison: Comparison
    strict_low: float
    strict_identity_low: float


def judge(
    candidate: EvaluationDoc,
    incumbent: EvaluationDoc,
    limits: GateLimits,
    n_looks: int,
    original: tuple[EvaluationDoc, EvaluationDoc] | None = None,
) -> GateDoc:
    """Decide whether a candidate takes the incumbent's place; the rules are at the top of this module.

    Parameters
    ----------
    candidate, incumbent
        Their evaluations on the holdout.
    n_looks
        How many different candidates were judged on this holdout, this one included.
    original
        Evaluations of candidate and incumbent on the holdout that shows forgetting.

    Raises
    ------
    ConfigError
        When `n_looks` is not positive.
    """
    if n_looks < 1:
        raise ConfigError(f"n_looks is {n_looks}; this candidate is a look at the holdout, too: give at least 1")
    duels = {"": (candidate, incumbent)} | ({ORIGINAL: original} if original else {})
    found = Verdicts()
    for prefix, (new, old) in duels.items():
        found.incomplete += [prefix + text for text in find_gaps(new, old, limits)]
        if (new.model_id, old.model_id) != (candidate.model_id, incumbent.model_id):
            found.incomplete.append(f"{prefix}the evaluations are of models {new.model_id} and {old.model_id}")
        found.reject += [] if found.incomplete else _find_broken(prefix, new)
    if not found.incomplete and not found.reject:
        _compare(found, {prefix: pair_errors(*duel) for prefix, duel in duels.items()}, limits)
    if n_looks >= MANY_LOOKS:
        chance = 1 - (1 - (1 - limits.confidence) / 2) ** n_looks
        found.remarks.append(
            f"{n_looks} candidates were judged on this holdout; of so many that are no better, one passes by chance "
            f"with a probability of about {chance:.0%}; freeze another holdout (e3relax data freeze)"
        )
    holdout_ids = [new.holdout_id for new, _ in duels.values()]
    return GateDoc(
        gate_id=identify_gate(candidate.model_id, incumbent.model_id, holdout_ids, limits),
        candidate_id=candidate.model_id,
        incumbent_id=incumbent.model_id,
        holdout_id=candidate.holdout_id,
        original_holdout_id=original[0].holdout_id if original else None,
        decision=found.decision,
        reasons=found.reasons,
        comparisons=found.comparisons,
        limits=limits,
        n_looks=n_looks,
    )


def find_gaps(candidate: EvaluationDoc, incumbent: EvaluationDoc, limits: GateLimits) -> list[str]:
    """Why two evaluations cannot be compared, in words; empty when they can."""
    gaps = [
        f"the evaluations differ in {name}: {new!r} and {old!r}"
        for name, new, old in (
            ("holdout", candidate.holdout_id, incumbent.holdout_id),
            ("options", candidate.options.model_dump_json(), incumbent.options.model_dump_json()),
        )
        if new != old
    ]
    ids, other_ids = ([row.pair_id for row in doc.rows] for doc in (candidate, incumbent))
    if doubles := len(ids) - len(set(ids)) + len(other_ids) - len(set(other_ids)):
        gaps.append(f"{doubles} rows are there twice")
    if lonely := sorted(set(ids) ^ set(other_ids)):
        gaps.append(f"{len(lonely)} pairs are in one evaluation only: {', '.join(lonely[:3])}")
    if len(ids) < limits.min_stratum:
        gaps.append(f"the holdout has {len(ids)} pairs, at least {limits.min_stratum} are needed (min_stratum)")
    for doc in (candidate, incumbent):
        missing = [
            row.pair_id
            for row in doc.rows
            if (row.displacement is None or row.strain is None) and row.verdict != Verdict.ERROR
        ]
        if missing:
            gaps.append(f"{len(missing)} predictions of model {doc.model_id} have no error: {', '.join(missing[:3])}")
    if all(row.verdict == Verdict.ERROR for doc in (candidate, incumbent) for row in doc.rows) and not gaps:
        gaps.append("neither model has a single prediction")
    return gaps or _find_other_data(candidate, incumbent)


def _find_other_data(candidate: EvaluationDoc, incumbent: EvaluationDoc) -> list[str]:
    """Signs that the same pair ids did not stand for the same pairs, or that the incumbent's numbers are none."""
    gaps = []
    rows, others = (sorted(doc.rows, key=lambda row: row.pair_id) for doc in (candidate, incumbent))
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
    if broken := _list_infinite(incumbent):
        gaps.append(f"{len(broken)} errors of the incumbent are not finite: {', '.join(broken[:3])}")
    return gaps


def _find_broken(prefix: str, candidate: EvaluationDoc) -> list[str]:
    broken = _list_infinite(candidate)
    return [f"{prefix}{len(broken)} errors of the candidate are not finite: {', '.join(broken[:3])}"] if broken else []


def _list_infinite(doc: EvaluationDoc) -> list[str]:
    """Pairs with an error that is a number, but not a finite one."""
    finite = np.isfinite(read_errors(doc.rows))
    return [
        row.pair_id
        for row, ok in zip(doc.rows, finite, strict=True)
        if not ok and None not in (row.displacement, row.strain)
    ]


def _compare(found: Verdicts, duels: dict[str, PairedErrors], limits: GateLimits) -> None:
    """Apply the rules to errors that are all there."""
    masks = {prefix: list(_list_strata(errors, limits.min_stratum)) for prefix, errors in duels.items()}
    n_judged = sum(judged for strata in masks.values() for _, _, judged in strata)
    for prefix, errors in duels.items():
        _judge_validity(found, prefix, errors)
        everything = np.full(len(errors), True)
        yardstick = _Yardstick(prefix, errors, limits, max(n_judged, 1))
        own, served = yardstick.measure(ALL, np.full(len(errors), True))
        (_judge_forgetting if prefix else _judge_main)(found, own, limits)
        _judge_identity(found, own, limits)
        _judge_harm(found, served, limits)
        found.comparisons += [own.comparison, served.comparison]
        for name, mask, judged in masks[prefix]:
            own, served = yardstick.measure(name, mask, judged)
            found.comparisons += [own.comparison, served.comparison]
            if judged:
                _judge_harm(found, own, limits)
                _judge_identity(found, served, limits)


def _list_strata(errors: PairedErrors, min_stratum: int) -> Iterator[tuple[str, Mask, bool]]:
    """Name, mask and whether it is judged, of each source and stratum that is not the whole."""
    for prefix, names in ((SOURCE, errors.sources), (STRATUM, errors.strata)):
        values, counts = np.unique(names, return_counts=True)
        if len(values) == 1:
            continue
        for value, count in zip(values, counts, strict=True):
            yield prefix + str(value), names == value, bool(count >= min_stratum)
        small = values[counts < min_stratum]
        mask = np.isin(names, small)
        if len(small) > 1 and mask.sum() >= min_stratum:
            yield prefix + SMALL_ONES, mask, True


@dataclass(frozen=True)
class _Yardstick:
    """Measures comparisons on one holdout."""

    prefix: str
    errors: PairedErrors
    limits: GateLimits
    n_judged: int

    def measure(self, name: str, mask: Mask, judged: bool = True) -> tuple[Measured, Measured]:
        """Compare the pairs of `mask`: predictions themselves, and what is served."""
        errors, limits = self.errors, self.limits
        own, served = (errors.candidate, errors.incumbent), (errors.served_candidate, errors.served_incumbent)
        columns = np.stack([*own, *served, errors.identity])[:, mask]
        groups = None if errors.groups is None else errors.groups[mask]
        sums, n_groups = draw_sums(columns, groups, limits.n_resamples, f"{limits.seed}:{self.prefix}{name}")
        means = columns.mean(axis=1)
        words = {"n": int(mask.sum()), "n_groups": n_groups, "judged": judged}
        return (
            self._compare(self.prefix + name, sums[[0, 1, 4]], means[[0, 1, 4]], words),
            self._compare(self.prefix + SERVED + name, sums[[2, 3, 4]], means[[2, 3, 4]], words),
        )

    def _compare(self, name: str, sums: Floats, means: Floats, words: dict[str, Any]) -> Measured:
        tail = (1 - self.limits.confidence) / 2
        strict = tail if words["n"] == len(self.errors) else tail / self.n_judged
        changes, identity_changes = divide_errors(sums[0], sums[1]), divide_errors(sums[0], sums[2])
        comparison = Comparison(
            name=name,
            candidate=float(means[0]),
            incumbent=float(means[1]),
            identity=float(means[2]),
            change=float(divide_errors(means[0], means[1])),
            low=float(np.quantile(changes, tail)),
            high=float(np.quantile(changes, 1 - tail)),
            identity_low=float(np.quantile(identity_changes, tail)),
            **words,
        )
        return Measured(comparison, float(np.quantile(changes, strict)), float(np.quantile(identity_changes, strict)))


def _judge_validity(found: Verdicts, prefix: str, errors: PairedErrors) -> None:
    new, old = int(errors.candidate_valid.sum()), int(errors.incumbent_valid.sum())
    text = f"{prefix}{new} of {len(errors)} predictions are possible crystals, of the incumbent's {old}"
    if new < old:
        found.reject.append(f"{text}: fewer")


def _judge_main(found: Verdicts, measured: Measured, limits: GateLimits) -> None:
    comparison = measured.comparison
    text = describe(comparison, limits)
    if comparison.high < -limits.margin:
        found.promote.append(f"{text}: better by more than the margin of {limits.margin:.1%}")
    elif comparison.low > 0:
        found.reject.append(f"{text}: worse")
    else:
        found.keep.append(f"{text}: not shown to be better by more than the margin of {limits.margin:.1%}")


def _judge_forgetting(found: Verdicts, measured: Measured, limits: GateLimits) -> None:
    comparison = measured.comparison
    text = describe(comparison, limits)
    if comparison.high <= limits.tolerance:
        found.promote.append(f"{text}: nothing forgotten beyond the tolerance of {limits.tolerance:.1%}")
    elif comparison.low > 0 and comparison.change > limits.tolerance:
        found.reject.append(f"{text}: forgotten, beyond the tolerance of {limits.tolerance:.1%}")
    else:
        found.keep.append(f"{text}: not shown to be within the tolerance of {limits.tolerance:.1%}")


def _judge_harm(found: Verdicts, measured: Measured, limits: GateLimits) -> None:
    comparison = measured.comparison
    if comparison.change > limits.tolerance and comparison.low > 0:
        text = f"{describe(comparison, limits)}: worse by more than the tolerance of {limits.tolerance:.1%}"
        _add_sign(found, text, measured.strict_low)


def _judge_identity(found: Verdicts, measured: Measured, limits: GateLimits) -> None:
    comparison = measured.comparison
    if comparison.identity_low is not None and comparison.identity_low > 0:
        ratio = float(divide_errors(np.array(comparison.candidate), np.array(comparison.identity)))
        text = (
            f"{describe(comparison, limits)}: worse than leaving the crystals alone, {comparison.identity:.4f} Å, by "
            f"{ratio:.1%} (at least {comparison.identity_low:.1%})"
        )
        _add_sign(found, text, measured.strict_identity_low)


def _add_sign(found: Verdicts, text: str, strict_low: float) -> None:
    if strict_low > 0:
        found.reject.append(text)
    else:
        found.keep.append(f"{text}; by chance, perhaps, as it is one of several strata")


def describe(comparison: Comparison, limits: GateLimits) -> str:
    """A comparison on one line, with its numbers."""
    groups = f" in {comparison.n_groups} groups" if comparison.n_groups else ""
    return (
        f"{comparison.name} ({comparison.n} pairs{groups}): error {comparison.candidate:.4f} Å, the incumbent's "
        f"{comparison.incumbent:.4f} Å, change {comparison.change:+.1%} "
        f"({limits.confidence:.0%}: {comparison.low:+.1%} to {comparison.high:+.1%})"
    )
