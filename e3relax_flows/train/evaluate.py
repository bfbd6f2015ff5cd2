"""Evaluate a predictor on pairs: errors of the identity, of all predictions and of the accepted ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from e3relax_flows.core.savings import find_harmed, measure_savings
from e3relax_flows.predict.predictor import Predictor
from e3relax_flows.schemas.predictions import Prediction, PredictOptions, Verdict
from e3relax_flows.train.dataset import Pair, PairSet
from e3relax_flows.train.metrics import (
    combine_errors,
    measure_pair,
    summarize_by_source,
)


class Evaluation(BaseModel):
    """Mean errors by source; every table has a row "all"."""

    model_id: str
    options: PredictOptions
    n_pairs: int
    identity: dict[str, dict[str, float]] = Field(description="predicted = initial")
    predicted: dict[str, dict[str, float]] = Field(description="every prediction, refused ones too")
    served: dict[str, dict[str, float]] = Field(description="the initial structure where the prediction was refused")
    refused: dict[str, float] = Field(description="share of pairs refused or in error")
    harmed: dict[str, float] = Field(description="share where the accepted prediction is worse than the initial one")
    materially_harmed: dict[str, float] = Field(
        default_factory=dict, description="share where it is worse by more than 10 % and 0.02 Å; what costs DFT steps"
    )
    saving: dict[str, float] = Field(
        default_factory=dict,
        description="mean ln(error of the initial structure / of what is served) over what the better of initial and "
        "predicted structure would save",
    )
    median: dict[str, dict[str, float]] = Field(description="medians of the predictions' errors")
    seconds_per_structure: float


def evaluate_pairs(
    predictor: Predictor,
    pairs: PairSet,
    options: PredictOptions,
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[Evaluation, list[Prediction]]:
    """Predict from the initial side of every pair and compare with the relaxed side, sites in the pair's order.

    Returns
    -------
    evaluation
        Mean errors by source: of the initial structures, of the predictions, and of what the guard serves.
    predictions
        In the order of the pairs.

    Examples
    --------
    >>> import numpy as np
    >>> from e3relax_flows import PairSet, PredictOptions, Predictor, evaluate_pairs
    >>> pairs = PairSet(
    ...     ids=["CsCl"], sources=["mine"], first=np.array([0, 2]), numbers=np.array([55, 17]),
    ...     fractions=np.array([[[0, 0, 0], [0.5, 0.5, 0.5]]] * 2), lattices=np.eye(3) * [[[[4.4]]], [[[4.12]]]],
    ... )
    >>> evaluation, (prediction,) = evaluate_pairs(Predictor.load(device="cpu"), pairs, PredictOptions())
    >>> evaluation.predicted["mine"]["volume"] < evaluation.identity["mine"]["volume"]
    True
    """
    rows = [pairs[i] for i in range(len(pairs))]
    starts = [pair.build_initial() for pair in rows]
    predictions = predictor.predict(starts, options, ids=pairs.ids, on_progress=on_progress)
    errors = measure_predictions(predictions, pairs)
    identity = np.array([measure_pair(p.initial_fractions, p.initial_lattice, p) for p in rows])
    accepted = np.array([prediction.verdict == Verdict.ACCEPT for prediction in predictions])
    served = np.array([_measure_served(prediction, pair) for prediction, pair in zip(predictions, rows, strict=True)])
    before, after = combine_errors(identity), combine_errors(served)
    nearer = np.minimum(combine_errors(errors), before)
    evaluation = Evaluation(
        model_id=predictor.model_id,
        options=options,
        n_pairs=len(pairs),
        identity=summarize_by_source(identity, pairs.sources),
        predicted=summarize_by_source(errors, pairs.sources),
        served=summarize_by_source(served, pairs.sources),
        refused=_share_by_source(~accepted, pairs.sources),
        harmed=_share_by_source(accepted & (after > before), pairs.sources),
        materially_harmed=_share_by_source(accepted & find_harmed(before, after), pairs.sources),
        saving=_find_saving_by_source(measure_savings(before, after), measure_savings(before, nearer), pairs.sources),
        median=summarize_by_source(errors, pairs.sources, np.median),
        seconds_per_structure=sum(p.wall_time_s for p in predictions) / len(predictions),
    )
    return evaluation, predictions


def _measure_served(prediction: Prediction, pair: Pair) -> tuple[float, float, float]:
    """Errors of the starts of relaxations."""
    if prediction.verdict != Verdict.ACCEPT or prediction.served is None:
        return measure_pair(pair.initial_fractions, pair.initial_lattice, pair)
    return measure_pair(prediction.served.frac_coords, prediction.served.lattice.matrix, pair)


def measure_predictions(predictions: Sequence[Prediction], pairs: PairSet) -> NDArray[np.float64]:
    """Errors [n_pairs, 3] in the order of METRICS; the identity's if there is no prediction."""
    errors = []
    for index, prediction in enumerate(predictions):
        pair = pairs[index]
        if prediction.structure is None:
            errors.append(measure_pair(pair.initial_fractions, pair.initial_lattice, pair))
        else:
            structure = prediction.structure
            errors.append(measure_pair(structure.frac_coords, structure.lattice.matrix, pair))
    return np.array(errors)


def write_predictions(path: Path, predictions: Sequence[Prediction], pairs: PairSet) -> None:
    """A line {"id", "verdict", "structure", "served"} for each pair, in order.

    `structure` is the prediction, or else the initial structure; `served` is the start for DFT.
    """
    with path.open("w") as file:
        for index, (name, prediction) in enumerate(zip(pairs.ids, predictions, strict=True)):
            start = pairs[index].build_initial()
            structure = prediction.structure or start
            served = prediction.served or start
            row: dict[str, Any] = {
                "id": name,
                "verdict": prediction.verdict,
                "structure": structure.as_dict(),
                "served": served.as_dict(),
            }
            file.write(json.dumps(row) + "\n")


def _share_by_source(flags: NDArray[np.bool_], sources: Sequence[str]) -> dict[str, float]:
    return {name: float(flags[mask].mean()) for name, mask in _group(sources).items()}


def _find_saving_by_source(
    savings: NDArray[np.float64], possible: NDArray[np.float64], sources: Sequence[str]
) -> dict[str, float]:
    """Saving of the served structure over that of the better of initial and predicted; 0 if no saving is possible."""
    shares = {}
    for name, mask in _group(sources).items():
        most = float(possible[mask].sum())
        shares[name] = float(savings[mask].sum()) / most if most > 0 else 0.0
    return shares


def _group(sources: Sequence[str]) -> dict[str, NDArray[np.bool_]]:
    names = np.array(sources)
    return {"all": np.full(len(names), True)} | {name: names == name for name in sorted(set(sources))}
