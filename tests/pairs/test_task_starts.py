"""PairBuilder where relaxations start from predictions: the initial structure is the one that was predicted for."""

from __future__ import annotations

from typing import Any

import pytest
from task_bench import PREDICTED, RAW, RELAXED, Bench, a_of, predict
from task_documents import build_salt, job_document, vasp_output

from e3relax_flows.engines.task_reader import TaskReader
from e3relax_flows.schemas.predictions import PredictionDoc, Verdict
from e3relax_flows.stores.opening import dump_document


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_start_at_a_stored_prediction_gives_the_initial_structure(bench):
    bench.predictions.update([dump_document(predict())])
    bench.add(vasp_output(PREDICTED, RELAXED), "v-1")
    bench.add(vasp_output(build_salt(6.2), RELAXED), "v-2")
    assert bench.build() == {"new": 2}
    predicted, raw = bench.list_pairs()
    assert (a_of(predicted.initial), predicted.start_kind, predicted.model_id) == (
        pytest.approx(5.9),
        "predicted",
        "m-1",
    )
    assert predicted.prediction_id == predict().prediction_id
    assert (a_of(raw.initial), raw.start_kind, raw.model_id) == (pytest.approx(6.2), "raw", None)


def test_the_same_prediction_for_two_structures_leaves_the_start_unknown(bench):
    bench.predictions.update([dump_document(predict()), dump_document(predict(build_salt(6.3)))])
    bench.add(vasp_output(PREDICTED, RELAXED), "v-1")
    assert bench.build() == {"start_unknown": 1}
    assert "2 different initial structures" in bench.list_records()["v-1"].message


def test_moments_alone_make_no_other_start(bench):
    """The network does not see them, so that the same is predicted for all orders of a crystal."""
    orders = [RAW.copy(site_properties={"magmom": moments}) for moments in ([1.0, -1.0], [[1.0, 0, 0], [0, 1.0, 0]])]
    bench.predictions.update([dump_document(predict(order)) for order in orders])
    bench.add(vasp_output(PREDICTED, RELAXED), "v-1")
    assert bench.build() == {"new": 1}
    (pair,) = bench.list_pairs()
    assert (a_of(pair.initial), pair.start_kind) == (pytest.approx(5.9), "predicted")
    held = RAW.copy(site_properties={"selective_dynamics": [[True] * 3, [False] * 3]})
    bench.predictions.update([dump_document(predict(held))])
    bench.add(vasp_output(PREDICTED, RELAXED), "v-2")
    assert bench.build()["start_unknown"] == 1


@pytest.mark.parametrize(
    ("kind", "start", "begins"),
    [("predicted", "predicted", PREDICTED), ("control", "control", RAW), ("initial", "raw", RAW)],
)
def test_metadata_name_the_prediction(bench, kind, start, begins):
    prediction = predict()
    bench.predictions.update([dump_document(prediction)])
    metadata = {"prediction_id": prediction.prediction_id, "start_kind": kind, "candidate": "salt"}
    bench.add(vasp_output(begins, RELAXED), "v-1", metadata=metadata, hosts=["f", "screen"])
    assert bench.build() == {"new": 1}
    (pair,) = bench.list_pairs()
    assert (a_of(pair.initial), pair.start_kind, pair.id, pair.source) == (pytest.approx(5.9), start, "salt", "screen")
    assert pair.model_id == ("m-1" if kind == "predicted" else None)


def test_a_prediction_that_is_nowhere_leaves_the_start_unknown_until_it_comes(bench):
    prediction = predict()
    metadata = {"prediction_id": prediction.prediction_id, "start_kind": "predicted"}
    bench.add(vasp_output(PREDICTED, RELAXED), "v-1", metadata=metadata)
    # a control needs none
    bench.add(vasp_output(RAW, RELAXED), "v-2", metadata={**metadata, "start_kind": "control"})
    assert bench.build() == {"start_unknown": 1, "new": 1}
    assert prediction.prediction_id in bench.list_records()["v-1"].message
    assert bench.list_pairs()[0].start_kind == "control"
    assert bench.build() == {}
    bench.predictions.update([dump_document(prediction)])
    assert bench.build() == {"duplicate": 1}  # of the control, which ended at the same place
    assert bench.list_records()["v-1"].message == f"the same as pair {bench.list_pairs()[0].pair_id} of v-2"


def predict_job(prediction: PredictionDoc | None, **more: Any) -> dict[str, Any]:
    output = {"@class": "PrerelaxDoc", "prediction": dump_document(prediction) if prediction else None}
    return job_document(output, "e-1", 0, name="e3r predict", **more)


@pytest.mark.parametrize("hosts", [["f"], ["inner", "f"]])
def test_a_flow_that_predicted_begins_at_its_prediction(bench, hosts):
    """The document of the prediction job is enough; the prediction store is empty."""
    bench.tasks.update([predict_job(predict(), hosts=["f"])], key=["uuid", "index"])
    bench.add(vasp_output(PREDICTED, RELAXED), "v-1", 1, hosts=hosts, name="relax 2")
    assert bench.build() == {"new": 1}
    (pair,) = bench.list_pairs()
    assert (a_of(pair.initial), pair.start_kind, pair.model_id) == (pytest.approx(5.9), "predicted", "m-1")


def test_a_refused_prediction_hands_on_the_initial_structure(bench):
    bench.tasks.update([predict_job(predict(verdict=Verdict.REFUSE), hosts=["f"])], key=["uuid", "index"])
    bench.add(vasp_output(RAW, RELAXED), "v-1", 1, hosts=["f"])
    assert bench.build() == {"new": 1}
    assert (bench.list_pairs()[0].start_kind, bench.list_pairs()[0].model_id) == ("raw", None)


def test_a_flow_whose_prediction_is_lost_gives_no_pair(bench):
    bench.tasks.update([predict_job(None, hosts=["f"])], key=["uuid", "index"])
    bench.add(vasp_output(PREDICTED, RELAXED), "v-1", 1, hosts=["f"])
    assert bench.build() == {"start_unknown": 1}
    assert "e-1 of its flow predicted" in bench.list_records()["v-1"].message


def test_a_start_that_is_neither_predicted_nor_initial_gives_no_pair(bench):
    bench.tasks.update([predict_job(predict(), hosts=["f"])], key=["uuid", "index"])
    bench.add(vasp_output(build_salt(6.4), RELAXED), "v-1", 1, hosts=["f"])
    assert bench.build() == {"start_unknown": 1}
    assert "neither at the predicted nor at the initial" in bench.list_records()["v-1"].message


def test_the_prediction_store_knows_the_flow_too(bench):
    """The job document is gone; the prediction remembers its flows."""
    bench.predictions.update([dump_document(predict(hosts=["f"]))])
    bench.add(vasp_output(build_salt(6.4), RELAXED), "v-1", 1, hosts=["f"])
    bench.add(vasp_output(PREDICTED, RELAXED), "v-2", 1, hosts=["f"])
    assert bench.build() == {"start_unknown": 1, "new": 1}
    assert bench.list_records()["v-1"].reason == "start_unknown"


def test_a_campaign_around_both_does_not_make_a_raw_start_predicted(bench):
    bench.tasks.update([predict_job(predict(), hosts=["one", "campaign"])], key=["uuid", "index"])
    bench.add(vasp_output(build_salt(6.2), RELAXED), "v-1", 1, hosts=["other", "campaign"])
    assert bench.build() == {"new": 1}
    assert (a_of(bench.list_pairs()[0].initial), bench.list_pairs()[0].start_kind) == (pytest.approx(6.2), "raw")


def test_documents_of_a_task_store_without_jobs_are_read(bench):
    output = vasp_output(RAW, RELAXED)
    bench.tasks.key = "task_id"
    bench.tasks.update([output | {"task_id": "mp-1", "task_label": "relax"}, output | {"task_id": "mp-2"}])
    assert bench.build() == {"new": 1, "duplicate": 1}
    assert bench.list_pairs()[0].origin_id == "mp-1"
    assert bench.build() == {}


def test_a_dry_run_counts_and_writes_nothing(bench):
    for uuid in ("v-1", "v-2"):
        bench.add(vasp_output(RAW, RELAXED), uuid)
    assert bench.build(is_dry=True) == {"new": 1, "duplicate": 1}
    assert (bench.pairs.count(), bench.records.count()) == (0, 0)


def test_one_broken_flow_costs_no_other(bench, monkeypatch):
    bench.add(vasp_output(RAW, RELAXED), "v-1")
    bench.add(vasp_output(build_salt(6.1), RELAXED), "v-2")
    original = TaskReader.read

    def read(self, document):
        if abs(document["orig_inputs"]["structure"]["lattice"]["volume"] - RAW.volume) < 1e-6:
            raise ZeroDivisionError("parser gone mad")
        return original(self, document)

    monkeypatch.setattr(TaskReader, "read", read)
    assert bench.build() == {"unreadable": 1, "new": 1}
    assert bench.list_records()["v-1"].message == "ZeroDivisionError: parser gone mad"
