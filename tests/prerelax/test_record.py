"""The outcome job, apart from the flows that make it."""

from __future__ import annotations

from pathlib import Path

import pytest
from jobflow import JobStore
from maggma.stores import MemoryStore
from pymatgen.core import Lattice, Structure

from e3relax_flows.core.errors import StoreError, StructureError
from e3relax_flows.core.settings import E3RelaxSettings, load_settings
from e3relax_flows.ledger.claims import END_KEY
from e3relax_flows.ledger.store import find_outcomes, find_predictions, open_stores
from e3relax_flows.prerelax.flow import PrerelaxFlowMaker
from e3relax_flows.prerelax.predict import predict_stored
from e3relax_flows.prerelax.record import build_relaxation, record_outcome
from e3relax_flows.schemas.outcomes import StartKind
from e3relax_flows.schemas.predictions import PredictionDoc, PredictOptions
from e3relax_flows.testing import EmtEngine, TablePredictor


@pytest.fixture
def copper() -> Structure:
    return Structure(Lattice([[0, 1.9, 1.9], [1.9, 0, 1.9], [1.9, 1.9, 0]]), ["Cu"], [[0, 0, 0]])


@pytest.fixture
def prediction(predictor: TablePredictor, copper: Structure) -> PredictionDoc:  # noqa: ARG001
    return predict_stored([copper], ["copper"], "default", "auto", PredictOptions())[0][0]


def run_job(job: object) -> dict:
    store = JobStore(MemoryStore())
    store.connect()
    job.run(store)
    return store.get_output(job.uuid)


def test_a_prediction_that_is_not_in_the_store_is_named(settings: E3RelaxSettings) -> None:
    job = record_outcome(EmtEngine(), "0123456789abcdef", StartKind.PREDICTED, [None], ["uuid"])
    with pytest.raises(StoreError, match=r"'0123456789abcdef' .*/predictions; .*`e3relax doctor`"):
        run_job(job)
    with open_stores(settings) as stores:
        assert find_outcomes(stores.outcomes) == {}


def test_a_document_of_another_structure_is_a_failure(settings: E3RelaxSettings, prediction: PredictionDoc) -> None:
    """The engine's document must begin at the structure that it was given."""
    store = JobStore(MemoryStore())
    store.connect()
    relaxation = EmtEngine().make(prediction.initial).jobs[0]
    relaxation.run(store)
    job = record_outcome(
        EmtEngine(), prediction.prediction_id, StartKind.PREDICTED, [relaxation.output], [relaxation.uuid], "my copper"
    )
    job.run(store)
    output = store.get_output(job.uuid)
    assert (output["state"], output["id"], output["result"]) == ("failed", "my copper", None)
    assert "the engine started from a lattice that is strained" in output["message"]
    again = record_outcome(
        EmtEngine(), prediction.prediction_id, StartKind.CONTROL, [relaxation.output], [relaxation.uuid]
    )
    again.run(store)
    output = store.get_output(again.uuid)
    assert (output["state"], output["id"], output["start_kind"]) == ("successful", "copper", "control")
    with open_stores(settings) as stores:
        assert len(find_outcomes(stores.outcomes)) == 2


def test_the_jobs_carry_the_ids(prediction: PredictionDoc) -> None:
    flow = build_relaxation(EmtEngine(), prediction, StartKind.PREDICTED)
    assert flow.name == "e3r emt copper"
    jobs = [job for job, _ in flow.iterflow()]
    assert [job.name for job in jobs] == ["EMT relax", "e3r outcome"]
    assert [job.metadata.pop(END_KEY, False) for job in jobs] == [False, True]
    for job in jobs:
        assert job.metadata == {
            "prediction_id": prediction.prediction_id,
            "structure_id": prediction.structure_id,
            "start_kind": "predicted",
            "candidate": "copper",
        }


def test_nothing_is_built_from_an_error(prediction: PredictionDoc) -> None:
    error = prediction.model_copy(update={"verdict": "error", "structure": None, "message": "no such thing"})
    with pytest.raises(StructureError, match="no such thing"):
        build_relaxation(EmtEngine(), error, StartKind.INITIAL)


@pytest.mark.usefixtures("predictor")
def test_workers_with_a_store_of_their_own_may_predict(
    copper: Structure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a GPU worker has stored elsewhere is in its output, and dispatch stores it where outcomes are joined."""
    jobs = JobStore(MemoryStore())
    jobs.connect()
    predict, dispatch = PrerelaxFlowMaker(engine=EmtEngine()).make(copper).jobs
    predict.run(jobs)
    monkeypatch.setenv("E3RELAX_DATA_DIR", str(tmp_path / "elsewhere"))
    prediction_id = jobs.get_output(predict.uuid)["prediction"]["prediction_id"]
    with open_stores(load_settings()) as stores:
        assert find_predictions(stores.predictions, [prediction_id]) == {}
    dispatch.run(jobs)
    with open_stores(load_settings()) as stores:
        assert find_predictions(stores.predictions, [prediction_id])[prediction_id].initial == copper
