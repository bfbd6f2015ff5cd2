"""Fit the weight of a potential's second opinion on pairs outside of the training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from e3relax_flows.core.errors import ConfigError
from e3relax_flows.predict.opinions import Judge
from e3relax_flows.predict.predictor import Predictor
from e3relax_flows.predict.trust import OpinionModel, find_log_odds, weigh_energy
from e3relax_flows.schemas.predictions import GuardLimits, PredictOptions
from e3relax_flows.train.calibrate import (
    CalibrationSet,
    choose_max_harm,
    fit_guard,
    judge_unseen,
    trace_thresholds,
)
from e3relax_flows.train.evaluate import measure_predictions
from e3relax_flows.train.metrics import combine_errors, measure_pair
from e3relax_flows.train.pairs import PairSet

SIGNALS = ("log_odds", "weighed_energy")
# As HARM_GOAL; single points are computed for fewer pairs: of some 200 of a source, one harmed pair is half a percent.
OPINION_GOAL = 0.04


def collect_opinions(
    predictor: Predictor, pairs: PairSet, judge: Judge, options: PredictOptions | None = None
) -> CalibrationSet:
    """Predict from the initial side of every pair without guards, and evaluate a potential; failed ones are left out.

    Raises
    ------
    ConfigError
        When the model's trust is not calibrated: the opinion extends the expectations of the guard.
    """
    if predictor.trust is None or predictor.trust.saving is None:
        raise ConfigError(
            f"model {predictor.model_id} has no calibration of savings, which a second opinion needs; "
            "leave out --second-opinion, or calibrate both: e3relax models calibrate"
        )
    changes = {"guards": GuardLimits(max_harm=1.0), "second_opinion": None}
    rows = [pairs[index] for index in range(len(pairs))]
    starts = [pair.build_initial() for pair in rows]
    predictions = predictor.predict(starts, (options or PredictOptions()).model_copy(update=changes), ids=pairs.ids)
    known = [
        (index, each.structure, each.harm_probability)
        for index, each in enumerate(predictions)
        if each.structure is not None and each.harm_probability is not None
    ]
    opinions = judge.compare([(starts[index], structure) for index, structure, _ in known])
    logs, kept = [], []
    for (index, _, harm), opinion in zip(known, opinions, strict=True):
        if opinion.energy_change is not None:
            logs.append((1.0, find_log_odds(harm), weigh_energy(opinion.energy_change, predictions[index].move)))
            kept.append(index)
    identity = np.array([measure_pair(pair.initial_fractions, pair.initial_lattice, pair) for pair in rows])
    return CalibrationSet(
        np.array(logs, dtype=float).reshape(len(logs), 1 + len(SIGNALS)),
        SIGNALS,
        combine_errors(identity)[kept],
        combine_errors(measure_predictions(predictions, pairs))[kept],
        np.array(pairs.sources)[kept],
    )


def fit_opinion(data: CalibrationSet, goal: float = OPINION_GOAL) -> OpinionModel:
    """Fit the effect of the opinion on harm and saving, and choose the threshold as in `fit_trust`."""
    harm, saving = fit_guard(data)
    limit = choose_max_harm(trace_thresholds(data, judge_unseen(data)), goal)
    return OpinionModel(tuple(harm.tolist()), tuple(saving.tolist()), limit)


def calibrate_opinion(predictor: Predictor, pairs: PairSet, judge: Judge) -> dict[str, Any]:
    """The entry of a potential under "second_opinions" of a model's calibration."""
    data = collect_opinions(predictor, pairs, judge)
    return describe_opinion(fit_opinion(data), len(data.after))


def describe_opinion(opinion: OpinionModel, n_pairs: int) -> dict[str, Any]:
    """The entry that `OpinionModel.from_calibration` reads."""
    values: Mapping[str, Any] = asdict(opinion)
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()} | {
        "n_pairs": n_pairs
    }
