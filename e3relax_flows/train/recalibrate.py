"""Fit a model's guard to other pairs."""

from __future__ import annotations

from e3relax_flows.predict.predictor import Predictor
from e3relax_flows.train.calibrate import calibrate
from e3relax_flows.train.pairs import PairSet


def recalibrate(predictor: Predictor, pairs: PairSet) -> Predictor:
    """A predictor with the same network and model id, whose guard is fitted to pairs that it was not trained on.

    Second opinions join what the guard expects, so that the new predictor is calibrated for none. To keep such a
    guard, with a model id of its own, type `e3relax models calibrate`.

    Parameters
    ----------
    predictor
        It is not changed.
    pairs
        Hundreds of them, at least; a guard that is fitted to fewer is unreliable.

    Examples
    --------
    >>> from e3relax_flows import PredictOptions, Predictor, evaluate_pairs, load_pairs, recalibrate
    >>> def compare_guards(files, test_files):
    ...     predictor, test = Predictor.load(), load_pairs(test_files)
    ...     for each in (predictor, recalibrate(predictor, load_pairs(files))):
    ...         evaluation, _ = evaluate_pairs(each, test, PredictOptions())
    ...         print(evaluation.refused["all"], evaluation.materially_harmed["all"], evaluation.saving["all"])
    """
    kept = {name: value for name, value in predictor.calibration.items() if name != "second_opinions"}
    calibration = kept | calibrate(predictor, pairs)
    return Predictor(predictor.network, predictor.model_id, calibration, predictor.device)
