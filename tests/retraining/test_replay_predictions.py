"""Replayed predictions: what they are, and that a model trained on them, too, forgets less."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from jobflow import JobStore
from made_pairs import RADII, make_pairs, store_pairs
from maggma.stores import MemoryStore
from pymatgen.core import Structure

from e3relax_flows.candidates.random_crystals import CrystalRules, draw_crystals
from e3relax_flows.core.geometry import measure_log_strain
from e3relax_flows.core.settings import E3RelaxSettings
from e3relax_flows.model.files import save_model
from e3relax_flows.model.network import E3RelaxH2
from e3relax_flows.pairs.dataset_store import open_dataset_stores, save_holdout
from e3relax_flows.pairs.datasets import freeze_holdout
from e3relax_flows.pairs.store import iter_pairs, open_pair_store
from e3relax_flows.places.local import run_flow_locally
from e3relax_flows.predict.predictor import Predictor
from e3relax_flows.registry.aliases import promote
from e3relax_flows.registry.models import register_model, resolve_model
from e3relax_flows.retraining.maker import RetrainMaker
from e3relax_flows.retraining.replay import SOURCE, predict_pairs, predict_replay, write_replay
from e3relax_flows.schemas.retraining import RetrainConfig, RetrainDoc, name_run_folder
from e3relax_flows.train.dataset import load_pairs

TINY = {"n_layers": 1, "n_scalars": 12, "n_vectors": 4, "n_tensors": 2, "n_densities": 4, "n_hidden": 12, "n_radial": 8}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        known = {"calibration": {"elements": [8, 11, 12, 17, 19, 35]}}
        return save_model(tmp_path / "tiny", E3RelaxH2.from_config(TINY), "for these tests", known).path


def test_pairs_are_random_crystals_of_known_elements_and_their_predictions(model: Path) -> None:
    predictor = Predictor.load(str(model))
    pairs = predict_replay(predictor, 12, excluded=["Cl-Na"], seed=1)
    assert 8 <= len(pairs) <= 12
    assert set(pairs.sources) == {SOURCE}
    assert set(pairs.numbers.tolist()) <= {8, 11, 12, 17, 19, 35}
    assert "Cl-Na" not in pairs.groups
    starts = [pairs[index].build_initial() for index in range(len(pairs))]
    for index, prediction in enumerate(predictor.predict(starts)):
        assert prediction.structure is not None
        end = pairs[index].build_relaxed()
        assert abs(measure_log_strain(end.lattice.matrix, prediction.structure.lattice.matrix)).max() < 1e-5
        moves = prediction.structure.frac_coords - end.frac_coords
        moves -= np.round(moves)
        assert np.linalg.norm((moves - moves.mean(0)) @ end.lattice.matrix, axis=1).max() < 1e-4


def test_predictions_with_too_close_atoms_are_left_out(model: Path) -> None:
    """From a start near such a prediction, real weights tore La12Y apart, so that a training had no finite gradient."""
    predictor = Predictor.load(str(model))
    close = Structure(4.4 * np.eye(3), ["Na", "Na", "Cl"], [[0, 0, 0], [0.35, 0, 0], [0.5, 0.5, 0.5]])
    far = Structure(4.4 * np.eye(3), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    assert [name for name, _, _ in predict_pairs(predictor, [("close", close), ("far", far)])] == ["far"]


def test_shards_are_written_once(model: Path, tmp_path: Path) -> None:
    folder = write_replay(tmp_path / "replay", model, 4, [], seed=0)
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert write_replay(folder, model, 4, [], seed=0) == folder
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def retrain(folder: Path, **replay) -> RetrainDoc:
    config = {
        "name": "halides", "alias": "serving", "holdout": "halides", "blend": 0, "promote": False,
        "replay": {"fraction": 0, **replay},
        "training": {
            "network": TINY,
            "data": {"max_atoms": 32, "val_size": 20},
            "schedule": {"max_steps": 60, "learning_rate": 0.01, "warmup_steps": 5, "ema_decay": 0.9},
            "val_every": 20,
            "threads": 1,
        },
        "gate": {"n_resamples": 100, "min_stratum": 5},
    }  # fmt: skip
    flow, jobs = RetrainMaker(config=RetrainConfig.model_validate(config)).make(), JobStore(MemoryStore())
    assert run_flow_locally(flow, jobs, folder).failures == []
    return RetrainDoc.model_validate(jobs.get_output(flow.output.uuid, load=True))


def test_a_model_that_replays_its_predictions_forgets_less(
    settings: E3RelaxSettings, model: Path, tmp_path: Path
) -> None:
    store_pairs(settings, make_pairs(RADII, "halides", per_system=6))
    with open_pair_store(settings) as pairs, open_dataset_stores(settings) as stores:
        save_holdout(stores, freeze_holdout(iter_pairs(pairs), "halides", "chemical_system", 0.3))
    register_model(resolve_model(str(model), settings), settings)
    promote("serving", resolve_model(str(model), settings).model_id, "there is no other", settings=settings)
    alone = retrain(tmp_path / "alone")
    replayed = retrain(tmp_path / "replayed", predictions=40, share=0.75)
    assert alone.trainings[0].run_id != replayed.trainings[0].run_id

    folder = name_run_folder(settings.DATA_DIR, replayed.trainings[0].run_id)
    (shards,) = (path for path in folder.iterdir() if path.name == "replay")
    assert Counter(load_pairs([shards]).sources).keys() == {SOURCE}
    crystals = [
        structure for _, structure in islice(draw_crystals(CrystalRules(elements=["Na", "O", "K"], seed=9)), 20)
    ]
    before = Predictor.load(str(model)).predict(crystals)

    def measure_change(model_id: str | None) -> float:
        after = Predictor.load(str(resolve_model(str(model_id), settings).path)).predict(crystals)
        volumes = [a.structure.volume / b.structure.volume for a, b in zip(after, before, strict=True)]
        return float(np.abs(np.log(volumes)).mean())

    assert measure_change(replayed.challenger_id) < 0.7 * measure_change(alone.challenger_id)
