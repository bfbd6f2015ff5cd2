"""The same stores on a server that speaks MongoDB's protocol, and two writers at once."""

from __future__ import annotations

import threading

import pytest
from jobflow import JobStore, job, run_locally
from maggma.stores import MongoStore

from e3relax_flows.ledger.store import (
    find_outcomes,
    find_predictions,
    open_prediction_store,
    open_stores,
    save_outcomes,
    save_predictions,
)
from e3relax_flows.schemas.outcomes import OutcomeState
from e3relax_flows.stores.opening import describe_store, open_job_store


@pytest.fixture
def mongo(database, settings):
    """Settings with both stores on the server."""
    return settings.model_copy(update={"PREDICTION_STORE": database, "OUTCOME_STORE": database})


def test_predictions_are_written_once_and_come_back_whole(mongo, make_prediction):
    first, second = make_prediction("a"), make_prediction("b", 4.1)
    with open_stores(mongo) as stores:
        assert type(stores.predictions) is MongoStore
        assert save_predictions(stores.predictions, [first]) == 1
        assert save_predictions(stores.predictions, [first.model_copy(update={"score": 9.9}), second]) == 1
    with open_stores(mongo) as stores:
        found = find_predictions(stores.predictions, [second.prediction_id, "absent", first.prediction_id])
        assert stores.predictions.count() == 2
    assert list(found) == [second.prediction_id, first.prediction_id]
    assert found[first.prediction_id] == first
    assert found[first.prediction_id].structure.site_properties == first.structure.site_properties


def test_outcomes_are_replaced_only_where_they_failed(mongo, make_outcome):
    failed, done = make_outcome("a", ionic=None), make_outcome("b", 4.1)
    again, other = make_outcome("a"), make_outcome("b", 4.1, ionic=77)
    with open_stores(mongo) as stores:
        assert save_outcomes(stores.outcomes, [failed, done], replace_failed=True) == 2
        assert save_outcomes(stores.outcomes, [again, other]) == 0
        assert save_outcomes(stores.outcomes, [again, other], replace_failed=True) == 1
        assert find_outcomes(stores.outcomes, criteria={"state": "failed"}) == {}
        found = find_outcomes(stores.outcomes, [failed.outcome_id, done.outcome_id])
        assert stores.outcomes.count() == 2
    assert [doc.state for doc in found.values()] == [OutcomeState.SUCCESSFUL] * 2
    assert found[done.outcome_id].result.n_ionic_steps == 5


def test_the_ids_are_unique_and_writes_acknowledged(mongo):
    with open_prediction_store(mongo) as store:
        indexes = store._collection.index_information().values()
        unique = {index["key"][0][0]: bool(index.get("unique")) for index in indexes}
        assert unique["prediction_id"] is True
        assert unique["structure_id"] is False
        concern = store._collection.write_concern.document
        assert concern == {"w": "majority", "j": True}
        assert describe_store(store).startswith("mongodb://127.0.0.1:")


def test_writers_at_once_write_each_id_once(mongo, make_prediction):
    template = make_prediction()
    docs = [template.model_copy(update={"prediction_id": f"p-{n}"}) for n in range(30)]
    written = []

    def work(number):
        with open_prediction_store(mongo) as store:
            mine = [doc.model_copy(update={"metadata": {"by": number}}) for doc in docs]
            written.extend(save_predictions(store, mine[start : start + 5]) for start in range(0, 30, 5))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(written) == 18
    assert sum(written) == 30
    with open_prediction_store(mongo) as store:
        assert store.count() == 30
        assert len(find_predictions(store, [doc.prediction_id for doc in docs])) == 30


@job
def add(a, b):
    return a + b


def test_the_users_job_store_on_a_server_is_taken_and_indexed(mongo, tmp_path, monkeypatch):
    spec = mongo.PREDICTION_STORE
    config = tmp_path / "jobflow.yaml"
    lines = "\n".join(f"    {key}: {value}" for key, value in spec.items())
    config.write_text(f"JOB_STORE:\n  docs_store:\n{lines}\n    collection_name: outputs\n")
    monkeypatch.setenv("JOBFLOW_CONFIG_FILE", str(config))
    store = open_job_store(mongo)
    assert isinstance(store, JobStore)
    assert type(store.docs_store) is MongoStore
    assert "uuid_1" in store.docs_store._collection.index_information()
    total = add(1, 2)
    run_locally(total, store=store, ensure_success=True, log=False)
    assert store.get_output(total.uuid) == 3
    store.close()
