"""When campaigns end, and what they are expected to save: truth tables and sums with known answers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from e3relax_flows.campaigns.rules import (
    CampaignProgress,
    decide_stop,
    expect_cost,
    expect_saving,
    measure_progress,
    measure_ratio,
    measure_saved,
)
from e3relax_flows.schemas.campaigns import CampaignConfig, GenerationDoc, StopReason, StopRules

RULES = StopRules(labels=100, core_hours=50, without_promotion=2, saving_over_cost=1.5)
GOING = CampaignProgress(
    n_labels=99, core_hours=49.9, n_left=1, n_without_promotion=1, expected_saving=15.0, expected_cost=10.0
)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"is_stopped": True}, StopReason.PERSON),
        ({"n_labels": 100}, StopReason.LABELS),
        ({"core_hours": 50.0}, StopReason.CORE_HOURS),
        ({"n_left": 0}, StopReason.POOL_EMPTY),
        ({"n_without_promotion": 2}, StopReason.NO_PROMOTION),
        ({"expected_saving": 14.9}, StopReason.SAVING_BELOW_COST),
        ({"expected_saving": None}, None),  # what is not known is not nothing
        ({"expected_cost": None, "expected_saving": 0.0}, None),
        # the first that holds
        ({"is_stopped": True, "n_labels": 100}, StopReason.PERSON),
        ({"n_labels": 100, "core_hours": 50.0, "n_left": 0}, StopReason.LABELS),
        ({"n_left": 0, "n_without_promotion": 5}, StopReason.POOL_EMPTY),
        ({"n_without_promotion": 5, "expected_saving": 0.0}, StopReason.NO_PROMOTION),
    ],
)
def test_the_first_rule_that_holds_ends_it(changes: dict[str, Any], reason: StopReason | None) -> None:
    stop = decide_stop(RULES, replace(GOING, **changes))
    assert (stop.reason if stop else None) == reason


def test_rules_that_are_off_never_hold() -> None:
    off = StopRules(without_promotion=None)
    spent = CampaignProgress(10**6, 1e6, n_left=1, n_without_promotion=99, expected_saving=0.0, expected_cost=1e6)
    assert decide_stop(off, spent) is None


def make_generation(number: int, promoted: bool, error: float, before: float) -> GenerationDoc:
    """Two controls: 2 h from the prediction and 4 h from the initial structure; 1 and 2. Another one of 3 h."""

    def label(name: str, kind: str, hours: float, state: str = "successful", reused: bool = False) -> dict[str, Any]:
        own = {"outcome_id": f"{number}{name}{kind}", "structure_id": f"{number}{name}", "start_kind": kind}
        return own | {"state": state, "hours": hours, "reused": reused}

    chosen = {"chunk": 0, "place": 0, "arm": "scored", "expected_error": 0.1, "cost": 1.0}
    interval = {"low": None, "high": None, "n": 9}
    return GenerationDoc.model_validate(
        {
            "campaign_id": "c",
            "generation": number,
            "select": {"selected": [chosen | {"id": name, "structure_id": f"{number}{name}"} for name in "abcd"]},
            "label": {
                "labels": [
                    label("a", "predicted", 2), label("a", "control", 4), label("b", "predicted", 1),
                    label("b", "control", 2), label("c", "predicted", 3), label("d", "predicted", 7, "failed"),
                    label("d", "control", 9, reused=True),
                ]
            },
            "retrain": {"promoted": promoted, "hours": 1.0},
            "conclude": {
                "model_id": "m",
                "error": interval | {"mean": error},
                "error_before": interval | {"mean": before},
                "identity_error": interval | {"mean": 0.5},
                "dft_hours": 19.0,
            },
        }
    )  # fmt: skip


def test_savings_are_those_that_controls_have_shown() -> None:
    generation = make_generation(0, True, 0.2, 0.3)
    # 3 h over 6 h; the failed one is in no pair
    assert measure_ratio([generation]) == pytest.approx(0.5)
    # the 2, 1 and 3 h from predictions would have been twice as many
    assert measure_saved(generation, 0.5) == pytest.approx(6.0)
    assert measure_saved(generation, None) is None


def test_the_next_generation_is_expected_to_do_as_the_last_one() -> None:
    done = [make_generation(0, True, 0.2, 0.3)]
    # a relaxation takes 3 h from an error of 0.5 and 1.5 h from one of 0.2: 5 h per Å; it fell by 0.1: 0.5 h each
    assert expect_saving(done, 10) == pytest.approx(5.0)
    assert expect_saving(done, 10, cores=4) == pytest.approx(20.0)
    assert expect_cost(done) == pytest.approx(19 + 1)  # what was there before cost nothing
    assert expect_saving([make_generation(0, False, 0.3, 0.3)], 10) == 0.0
    assert expect_saving([], 10) is None
    assert expect_cost([]) is None


def test_progress_sums_up_generations() -> None:
    done = [
        make_generation(0, True, 0.2, 0.3),
        make_generation(1, False, 0.2, 0.2),
        make_generation(2, False, 0.2, 0.2),
    ]
    begun = GenerationDoc(campaign_id="c", generation=3)
    progress = measure_progress([*done, begun], StopRules(cores=2), n_left=8)
    assert (progress.n_labels, progress.n_left, progress.n_without_promotion) == (12, 8, 2)
    assert progress.core_hours == pytest.approx(2 * 3 * 19)
    assert progress.expected_saving == 0.0
    assert measure_progress(done[:1], StopRules(candidates_to_come=100), 8).expected_saving == pytest.approx(50.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inputs": []}, "no candidates"),
        (
            {"source": "mine", "retraining": {"holdout": "h", "dataset": {"filter": {"sources": ["screen"]}}}},
            "leaves out",
        ),
        ({"retraining": {"holdout": "h", "original_holdout": "h"}}, "are the same"),
        ({"retraining": {"holdout": "h", "name": "x", "alias": "x"}}, "the alias"),
        ({"label": 3}, "Extra inputs"),
    ],
)
def test_configurations_that_cannot_work_are_refused(changes: dict[str, Any], message: str) -> None:
    good: dict[str, Any] = {"inputs": ["x"], "engine": "vasp", "labels": 5, "retraining": {"holdout": "h"}}
    assert CampaignConfig.model_validate(good).mix.random == 1
    with pytest.raises(ValidationError, match=message):
        CampaignConfig.model_validate(good | changes)
