"""The gate: a challenger against the incumbent on the same frozen pairs. A pure function of two evaluations.

What is compared is the mean error, displacement + 2.5 Å · strain, as relative change challenger/incumbent - 1, with a
percentile interval from pairs drawn again with replacement, both models on the same draws; whole groups are drawn
where there are ten or more. On simulated skewed errors one bound is passed by chance in about 3 % of cases from 50
pairs on and 4 to 6 % at 20, for a nominal 2.5 %; the corrected interval for skewness (BCa) is not better there.

The error judged first is that of the prediction itself, refused or not: a model that refuses more must not look
better or worse by that alone. What is served, with the initial structure instead of refused predictions, must not
become worse either, and in no stratum worse than the initial structures: the guards must prevent that. Nor
may it do material harm to more than a few: a mean hides structures that become worse than their starts. Material is
a worsening by more than 10 % and 0.02 Å, which costs DFT steps; any worsening is also counted, but not judged.

Promoted is a challenger of which all of this holds, on the holdout:
  1. complete: both evaluations have the same pairs, options and data, and every number there;
  2. its errors are finite, and not fewer of its predictions are possible crystals than of the incumbent's;
  3. the upper end of the change is below -margin;
  4. served errors do not show it to be worse (see below), nor do the predictions' errors in any source or stratum;
  5. over all pairs its predictions, and in every source and stratum its served ones, are not shown to be worse than the
     initial structures;
  6. of all structures it serves at most `max_harmed` materially further from the relaxed ones than before, or no
     more than the incumbent does, and no source or stratum shows it to harm more than both;
and on the original holdout, where there is one, 1, 2, 4, 5, 6, and the upper end of the change is at most `tolerance`.

"Shown to be worse": the change is above the tolerance (against the initial structures: above 0) and the lower end of
its interval is above 0; for harm, the share is above `max_harmed` and above the incumbent's with the lower end of the
difference, too. One such sign is enough not to promote. With many strata one of them shows it by chance, so that it is
a reason to *reject* only if the lower end is above 0 also at a confidence divided among all strata judged
(Bonferroni). Strata of fewer than `min_stratum` pairs are reported; they are judged together, where they are enough.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from e3relax_flows.core.errors import ConfigError
from e3relax_flows.judging.bootstrap import PairedErrors, divide_errors, pair_errors
from e3relax_flows.judging.comparisons import (
    ALL,
    ORIGINAL,
    Measured,
    MeasuredHarm,
    PairedComparison,
    describe_comparison,
    describe_harm,
    list_strata,
)
from e3relax_flows.judging.gaps import find_gaps, list_infinite
from e3relax_flows.schemas.models import (
    Comparison,
    Decision,
    EvaluationDoc,
    GateDoc,
    GateLimits,
    Harm,
    identify_gate,
)

MANY_LOOKS = 10


@dataclass
class Verdicts:
    """Findings, in words with numbers, by their consequence."""

    incomplete: list[str] = field(default_factory=list)
    reject: list[str] = field(default_factory=list)
    keep: list[str] = field(default_factory=list)
    promote: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)
    harm: list[Harm] = field(default_factory=list)

    @property
    def decision(self) -> Decision:
        """The decision by the most serious finding; a promotion needs a reason for it."""
        if self.incomplete:
            return Decision.INCOMPLETE
        if self.reject:
            return Decision.REJECT
        return Decision.PROMOTE if self.promote and not self.keep else Decision.KEEP

    @property
    def reasons(self) -> list[str]:
        """All reasons, the most serious first."""
        return self.incomplete + self.reject + self.keep + self.promote + self.remarks


def judge(
    challenger: EvaluationDoc,
    incumbent: EvaluationDoc,
    limits: GateLimits,
    n_looks: int,
    original: tuple[EvaluationDoc, EvaluationDoc] | None = None,
) -> GateDoc:
    """Decide whether a challenger replaces the incumbent; the rules are at the top of this module.

    Parameters
    ----------
    challenger, incumbent
        Their evaluations on the holdout.
    n_looks
        How many different challengers were judged on this holdout, this one included.
    original
        Evaluations of challenger and incumbent on the holdout that shows forgetting.

    Raises
    ------
    ConfigError
        When `n_looks` is not positive.
    """
    if n_looks < 1:
        raise ConfigError(f"n_looks is {n_looks}; this challenger is a look at the holdout, too: give at least 1")
    sides = {"": (challenger, incumbent)} | ({ORIGINAL: original} if original else {})
    found = Verdicts()
    for prefix, (new, old) in sides.items():
        found.incomplete += [prefix + text for text in find_gaps(new, old, limits)]
        if (new.model_id, old.model_id) != (challenger.model_id, incumbent.model_id):
            found.incomplete.append(f"{prefix}the evaluations are of models {new.model_id} and {old.model_id}")
        found.reject += [] if found.incomplete else _find_broken(prefix, new)
    if not found.incomplete and not found.reject:
        _compare(found, {prefix: pair_errors(*side) for prefix, side in sides.items()}, limits)
    if n_looks >= MANY_LOOKS:
        chance = 1 - (1 - (1 - limits.confidence) / 2) ** n_looks
        found.remarks.append(
            f"{n_looks} challengers were judged on this holdout; of so many that are not better, one passes by chance "
            f"with a probability of about {chance:.0%}; freeze another holdout (e3relax data freeze)"
        )
    evaluation_ids = [each.evaluation_id for side in sides.values() for each in side]
    return GateDoc(
        gate_id=identify_gate(evaluation_ids, limits),
        challenger_id=challenger.model_id,
        incumbent_id=incumbent.model_id,
        holdout_id=challenger.holdout_id,
        original_holdout_id=original[0].holdout_id if original else None,
        decision=found.decision,
        reasons=found.reasons,
        comparisons=found.comparisons,
        harm=found.harm,
        limits=limits,
        n_looks=n_looks,
    )


def _find_broken(prefix: str, challenger: EvaluationDoc) -> list[str]:
    broken = list_infinite(challenger)
    return [f"{prefix}{len(broken)} errors of the challenger are not finite: {', '.join(broken[:3])}"] if broken else []


def _compare(found: Verdicts, sides: dict[str, PairedErrors], limits: GateLimits) -> None:
    """Apply the rules to complete evaluations."""
    masks = {prefix: list(list_strata(errors, limits.min_stratum)) for prefix, errors in sides.items()}
    n_judged = sum(judged for strata in masks.values() for _, _, judged in strata)
    for prefix, errors in sides.items():
        _judge_validity(found, prefix, errors)
        paired = PairedComparison(prefix, errors, limits, max(n_judged, 1))
        everything = np.full(len(errors), True)
        own, served = paired.measure(ALL, everything)
        (_judge_forgetting if prefix else _judge_main)(found, own, limits)
        _judge_identity(found, own, limits)
        _judge_worse(found, served, limits)
        harm = paired.measure_harm(ALL, everything)
        _judge_harm(found, harm, limits)
        found.harm.append(harm.harm)
        found.comparisons += [own.comparison, served.comparison]
        for name, mask, judged in masks[prefix]:
            own, served = paired.measure(name, mask, judged)
            harm = paired.measure_harm(name, mask, judged)
            found.comparisons += [own.comparison, served.comparison]
            found.harm.append(harm.harm)
            if judged:
                _judge_worse(found, own, limits)
                _judge_identity(found, served, limits)
                _judge_harm_in_part(found, harm, limits)


def _judge_validity(found: Verdicts, prefix: str, errors: PairedErrors) -> None:
    new, old = int(errors.challenger_valid.sum()), int(errors.incumbent_valid.sum())
    text = f"{prefix}{new} of {len(errors)} predictions are possible crystals, of the incumbent's {old}"
    if new < old:
        found.reject.append(f"{text}: fewer")


def _judge_main(found: Verdicts, measured: Measured, limits: GateLimits) -> None:
    comparison = measured.comparison
    text = describe_comparison(comparison, limits)
    if comparison.high < -limits.margin:
        found.promote.append(f"{text}: better by more than the margin of {limits.margin:.1%}")
    elif comparison.low > 0:
        found.reject.append(f"{text}: worse")
    else:
        found.keep.append(f"{text}: not shown to be better by more than the margin of {limits.margin:.1%}")


def _judge_forgetting(found: Verdicts, measured: Measured, limits: GateLimits) -> None:
    comparison = measured.comparison
    text = describe_comparison(comparison, limits)
    if comparison.high <= limits.tolerance:
        found.promote.append(f"{text}: nothing forgotten beyond the tolerance of {limits.tolerance:.1%}")
    elif comparison.low > 0 and comparison.change > limits.tolerance:
        found.reject.append(f"{text}: forgotten, beyond the tolerance of {limits.tolerance:.1%}")
    else:
        found.keep.append(f"{text}: not shown to be within the tolerance of {limits.tolerance:.1%}")


def _judge_worse(found: Verdicts, measured: Measured, limits: GateLimits) -> None:
    comparison = measured.comparison
    if comparison.change > limits.tolerance and comparison.low > 0:
        text = f"{describe_comparison(comparison, limits)}: worse by more than the tolerance of {limits.tolerance:.1%}"
        _add_sign(found, text, measured.strict_low)


def _judge_identity(found: Verdicts, measured: Measured, limits: GateLimits) -> None:
    comparison = measured.comparison
    if comparison.identity_low is not None and comparison.identity_low > 0:
        ratio = float(divide_errors(comparison.challenger, comparison.identity))
        text = (
            f"{describe_comparison(comparison, limits)}: worse than the initial structures, "
            f"{comparison.identity:.4f} Å, by {ratio:.1%} (at least {comparison.identity_low:.1%})"
        )
        _add_sign(found, text, measured.strict_identity_low)


def _judge_harm(found: Verdicts, measured: MeasuredHarm, limits: GateLimits) -> None:
    """Over all pairs: to pass, the share itself must be small, independent of its interval."""
    harm, text = measured.harm, describe_harm(measured.harm, limits)
    if harm.challenger <= limits.max_harmed:
        found.remarks.append(f"{text}: within the limit of {limits.max_harmed:.1%}")
    elif harm.challenger <= harm.incumbent:
        found.remarks.append(f"{text}: above the limit of {limits.max_harmed:.1%}, and no more than the incumbent")
    elif harm.low > 0:
        found.reject.append(f"{text}: harms more, beyond the limit of {limits.max_harmed:.1%}")
    else:
        found.keep.append(f"{text}: not shown to be within the limit of {limits.max_harmed:.1%}")


def _judge_harm_in_part(found: Verdicts, measured: MeasuredHarm, limits: GateLimits) -> None:
    harm = measured.harm
    if harm.challenger > limits.max_harmed and harm.low > 0:
        text = f"{describe_harm(harm, limits)}: harms more, beyond the limit of {limits.max_harmed:.1%}"
        _add_sign(found, text, measured.strict_low)


def _add_sign(found: Verdicts, text: str, strict_low: float) -> None:
    if strict_low > 0:
        found.reject.append(text)
    else:
        found.keep.append(f"{text}; by chance, perhaps, as it is one of several strata")
