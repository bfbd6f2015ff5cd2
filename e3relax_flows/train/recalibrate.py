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
    Too few pairs for a guard that could be trusted, but enough to see that it is another one:

    >>> import tempfile
    >>> from pathlib import Path
    >>> from e3relax_flows import Predictor, load_pairs, recalibrate, write_pair_file
    >>> from e3relax_flows.testing import make_pairs
    >>> file = Path(tempfile.mkdtemp()) / "pairs.jsonl"
    >>> n_pairs = write_pair_file(file, make_pairs())
    >>> bundled = Predictor.load(device="cpu")
    >>> fitted = recalibrate(bundled, load_pairs([file]))
    >>> fitted.model_id == bundled.model_id, fitted.calibration["trust"] == bundled.calibration["trust"]
    (True, False)
    """
    kept = {name: value for name, value in predictor.calibration.items() if name != "second_opinions"}
    calibration = kept | calibrate(predictor, pairs)
    return Predictor(predictor.network, predictor.model_id, calibration, predictor.device)
