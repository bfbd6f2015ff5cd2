"""Training from Python: a call that trains and exports, as the command does."""

from __future__ import annotations

import pytest

from e3relax_flows.core.errors import StoppedError
from e3relax_flows.predict.predictor import Predictor
from e3relax_flows.train.export import train_and_export


def test_a_call_trains_and_exports(rewrite):
    config = rewrite(schedule={"max_steps": 4}, val_every=2)
    folder = train_and_export(config)
    assert folder.path == config.out / "tiny"
    predictor = Predictor.load(str(folder.path), "cpu")
    assert predictor.model_id == folder.model_id
    assert predictor.calibration["n_pairs"] == 24 + 8  # the validation pairs, and a third of them from better starts
    assert train_and_export(config).model_id == folder.model_id


def test_a_stopped_run_exports_nothing(rewrite):
    config = rewrite(schedule={"max_steps": 60}, val_every=2, walltime_hours=1e-6, stop_minutes=0)
    with pytest.raises(StoppedError, match=r"\(walltime\)"):
        train_and_export(config)
    assert not (config.out / "tiny").exists()
