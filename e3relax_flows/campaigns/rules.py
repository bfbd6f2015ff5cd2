"""Stop rules of campaigns: pure functions of the results of generations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from e3relax_flows.schemas.campaigns import GenerationDoc, StopReason, StopRules
from e3relax_flows.schemas.outcomes import OutcomeState, StartKind


class Stop(NamedTuple):
    """Reason for the end of a campaign."""

    reason: StopReason
    message: str


@dataclass(frozen=True)
class CampaignProgress:
    """Results and costs of a campaign that the rules use."""

    n_labels: int = 0
    core_hours: float = 0.0
    n_left: int = 0
    n_without_promotion: int = 0
    expected_saving: float | None = None  # core hours, of one more generation; None: not known
    expected_cost: float | None = None  # core hours; None: not known
    is_stopped: bool = False  # by a user


def decide_stop(rules: StopRules, progress: CampaignProgress) -> Stop | None:
    """The first rule that holds, in the order of `StopReason`; None: continue."""
    if progress.is_stopped:
        return Stop(StopReason.PERSON, "a user stopped it")
    if rules.labels is not None and progress.n_labels >= rules.labels:
        return Stop(StopReason.LABELS, f"{progress.n_labels} labels, the budget is {rules.labels}")
    if rules.core_hours is not None and progress.core_hours >= rules.core_hours:
        return Stop(
            StopReason.CORE_HOURS, f"{progress.core_hours:.3g} core hours, the budget is {rules.core_hours:.3g}"
        )
    if progress.n_left == 0:
        return Stop(StopReason.POOL_EMPTY, "every candidate of the pool that can be predicted is labelled")
    limit = rules.without_promotion
    if limit is not None and progress.n_without_promotion >= limit:
        return Stop(StopReason.NO_PROMOTION, f"{progress.n_without_promotion} generations without a promotion")
    saving, cost = progress.expected_saving, progress.expected_cost
    if rules.saving_over_cost is not None and saving is not None and cost is not None:
        needed = rules.saving_over_cost * cost
        if saving < needed:
            return Stop(
                StopReason.SAVING_BELOW_COST,
                f"one more generation is expected to save {saving:.3g} core hours, {needed:.3g} are required",
            )
    return None


def measure_progress(
    generations: Sequence[GenerationDoc], rules: StopRules, n_left: int, is_stopped: bool = False
) -> CampaignProgress:
    """Sum the results of generations; the last one need not be complete."""
    done = [item for item in generations if item.conclude is not None]
    n_without = 0
    for item in reversed(done):
        if item.retrain is not None and item.retrain.promoted:
            break
        n_without += 1
    to_come = n_left if rules.candidates_to_come is None else rules.candidates_to_come
    return CampaignProgress(
        n_labels=sum(item.n_labels for item in generations),
        core_hours=rules.cores * sum(sum_hours(item) for item in generations),
        n_left=n_left,
        n_without_promotion=n_without,
        expected_saving=expect_saving(done, to_come, rules.cores),
        expected_cost=expect_cost(done, rules.cores),
        is_stopped=is_stopped,
    )


def expect_saving(done: Sequence[GenerationDoc], n_to_come: int, cores: int = 1) -> float | None:
    """Core hours that one more generation is expected to save on future relaxations; None: not known.

    Controls show the hours of a relaxation from the initial structure and from the prediction. Between the two, hours
    are assumed linear in the error of the start; the next generation is assumed to lower the error by as much as
    the last one, and not at all if that had no promotion.
    """
    if not done or (last := done[-1].conclude) is None:
        return None
    if last.error is None or last.error_before is None or last.identity_error is None:
        return None
    pairs = list_control_hours(done)
    gain = last.identity_error.mean - last.error.mean
    if not pairs or gain <= 0:
        return None
    mean_initial, mean_predicted = (sum(pair[i] for pair in pairs) / len(pairs) for i in (1, 0))
    fall = max(last.error_before.mean - last.error.mean, 0.0)
    return cores * n_to_come * max(mean_initial - mean_predicted, 0.0) * fall / gain


def expect_cost(done: Sequence[GenerationDoc], cores: int = 1) -> float | None:
    """Core hours that one more generation is expected to cost: the hours of the last one, relaxations and trainings."""
    if not done:
        return None
    last = done[-1]
    return cores * sum_hours(last) + (last.retrain.hours if last.retrain else 0.0)


def sum_hours(generation: GenerationDoc) -> float:
    """Hours of the relaxations of a generation, without earlier ones."""
    labels = generation.label.labels if generation.label else []
    return sum(label.hours or 0.0 for label in labels if not label.reused)


def list_control_hours(generations: Sequence[GenerationDoc]) -> list[tuple[float, float]]:
    """Hours from the prediction and from the initial structure, of controls for which both converged."""
    pairs = []
    for generation in generations:
        found: dict[str, dict[StartKind, float]] = {}
        for label in generation.label.labels if generation.label else []:
            if label.state == OutcomeState.SUCCESSFUL and label.hours:
                kind = StartKind.PREDICTED if label.start_kind.is_from_prediction else label.start_kind
                found.setdefault(label.structure_id, {})[kind] = label.hours
        both = (StartKind.PREDICTED, StartKind.CONTROL)
        pairs += [(hours[both[0]], hours[both[1]]) for hours in found.values() if hours.keys() >= set(both)]
    return pairs


def measure_ratio(generations: Sequence[GenerationDoc]) -> float | None:
    """Hours from the prediction over hours from the initial structure, each summed over controls; None without."""
    pairs = list_control_hours(generations)
    return sum(pair[0] for pair in pairs) / sum(pair[1] for pair in pairs) if pairs else None


def measure_saved(generation: GenerationDoc, ratio: float | None) -> float | None:
    """Hours that predictions saved on the relaxations that began at them, by the ratio of controls."""
    if not ratio or generation.label is None:
        return None
    begun = [
        label.hours
        for label in generation.label.labels
        if label.start_kind.is_from_prediction and label.state == OutcomeState.SUCCESSFUL and label.hours
    ]
    return sum(begun) * (1 / ratio - 1)
