"""The guard's threshold: from which score on predictions are, in sum, no better than the initial structures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from e3relax_flows.predict.predictor import Predictor
from e3relax_flows.schemas.predictions import GuardLimits, PredictOptions
from e3relax_flows.train.dataset import PairSet
from e3relax_flows.train.evaluate import combine_errors, make_start, measure_predictions
from e3relax_flows.train.metrics import measure_pair


def choose_max_score(scores: Sequence[float], gains: NDArray[np.float64]) -> float:
    """Score up to which accepting gains most.

    Parameters
    ----------
    scores
        Å; of each prediction.
    gains
        [n] Å; error of the initial structure less error of the prediction.
    """
    order = np.argsort(scores)
    total = np.cumsum(np.asarray(gains)[order])
    return float(np.asarray(scores)[order][int(np.argmax(total))])


def calibrate(predictor: Predictor, pairs: PairSet, options: PredictOptions | None = None) -> dict[str, float]:
    """Choose the threshold on pairs that the weights were not fitted to; to be stored with the model."""
    unguarded = GuardLimits(max_score=float("inf"))
    options = (options or PredictOptions()).model_copy(update={"guards": unguarded})
    rows = [pairs[i] for i in range(len(pairs))]
    predictions = predictor.predict([make_start(pair) for pair in rows], options, ids=pairs.ids)
    known = np.array([prediction.score is not None for prediction in predictions])
    identity = np.array([measure_pair(p.initial_fractions, p.initial_lattice, p) for p in rows])
    gains = combine_errors(identity) - combine_errors(measure_predictions(predictions, pairs))
    scores = [prediction.score for prediction in predictions if prediction.score is not None]
    max_score = choose_max_score(scores, gains[known])
    return {
        "max_score": max_score,
        "n_pairs": int(known.sum()),
        "refused": float(np.mean(np.array(scores) > max_score)),
    }
