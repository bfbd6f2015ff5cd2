"""Stores opened by the settings: embedded or configured, written once, read back whole."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime

import numpy as np
import pytest
import yaml
from jobflow import Flow, JobStore, job, run_locally
from maggma.stores import AliasingStore, JSONStore, MemoryStore, MongoStore
from pymatgen.core import Structure

from e3relax_flows.core.errors import ConfigError, StoreError
from e3relax_flows.core.settings import E3RelaxSettings, load_settings
from e3relax_flows.ledger.store import find_outcomes, find_predictions, open_stores, save_outcomes, save_predictions
from e3relax_flows.schemas.outcomes import OutcomeState, StartKind
from e3relax_flows.stores.opening import build_store, describe_store, dump_document, open_job_store
from e3relax_flows.stores.sqlite import SQLiteStore

MEMORY = {"type": "MemoryStore"}


@pytest.fixture(params=["embedded", "memory", "facade"])
def stores(request, settings):
    """The embedded stores, an in-memory MongoDB, and a store of another kind."""
    if request.param == "memory":
        settings = settings.model_copy(update={"PREDICTION_STORE": MEMORY, "OUTCOME_STORE": MEMORY})
    if request.param == "facade":
        spec = {"type": "AliasingStore", "store": MEMORY, "aliases": {}, "key": "x"}
        settings = settings.model_copy(update={"PREDICTION_STORE": spec, "OUTCOME_STORE": spec})
    with open_stores(settings) as stores:
        yield stores


def test_predictions_are_written_once_and_come_back_whole(stores, make_prediction):
    first, second = make_prediction("a"), make_prediction("b", 4.1)
    assert save_predictions(stores.predictions, [first]) == 1
    changed = first.model_copy(update={"score": 9.9})
    assert save_predictions(stores.predictions, [changed, second]) == 1
    assert save_predictions(stores.predictions, []) == 0

    ids = [second.prediction_id, "absent", first.prediction_id, first.prediction_id]
    found = find_predictions(stores.predictions, ids)
    assert list(found) == [second.prediction_id, first.prediction_id]
    back = found[first.prediction_id]
    assert back == first
    assert back.last_updated.tzinfo is UTC
    assert back.score == 0.01
    for got, given in ((back.initial, first.initial), (back.structure, first.structure)):
        assert np.array_equal(got.frac_coords, given.frac_coords)
        assert np.array_equal(got.lattice.matrix, given.lattice.matrix)
        assert [str(site.specie) for site in got] == ["Fe3+", "O2-", "Fe2+", "O2-"]
        assert got.site_properties["magmom"] == [3.5, 0.0, -3.5, 0.0]
        assert got.site_properties["selective_dynamics"][0] == [True, True, False]
        assert got.charge == 1
        assert got.properties == {"source": "a"}


def test_outcomes_are_replaced_only_where_they_failed(stores, make_outcome):
    failed = make_outcome("a", ionic=None)
    done = make_outcome("b", 4.1)
    assert save_outcomes(stores.outcomes, [failed, done]) == 2
    again, other = make_outcome("a"), make_outcome("b", 4.1, ionic=77)
    assert again.outcome_id == failed.outcome_id
    assert save_outcomes(stores.outcomes, [again, other]) == 0
    assert find_outcomes(stores.outcomes)[failed.outcome_id].state is OutcomeState.FAILED
    assert save_outcomes(stores.outcomes, [again, other], replace_failed=True) == 1
    found = find_outcomes(stores.outcomes)
    assert found[failed.outcome_id].state is OutcomeState.SUCCESSFUL
    assert found[done.outcome_id].result.n_ionic_steps == 5
    assert len(found) == 2
    assert stores.outcomes.count() == 2
    assert save_outcomes(stores.outcomes, [make_outcome("a", ionic=None)], replace_failed=True) == 0


def test_outcomes_are_found_by_ids_and_criteria(stores, make_outcome):
    docs = [make_outcome("a"), make_outcome("a", kind=StartKind.CONTROL, ionic=12), make_outcome("b", 4.1, ionic=None)]
    save_outcomes(stores.outcomes, docs)
    ids = [doc.outcome_id for doc in docs]
    assert find_outcomes(stores.outcomes, ids[:1])[ids[0]] == docs[0]
    assert list(find_outcomes(stores.outcomes, ids, {"result.n_ionic_steps": {"$gt": 5}})) == [ids[1]]
    assert list(find_outcomes(stores.outcomes, criteria={"state": "failed"})) == [ids[2]]
    assert set(find_outcomes(stores.outcomes, criteria={"prediction_id": docs[0].prediction_id})) == set(ids[:2])
    assert find_outcomes(stores.outcomes, []) == {}


def test_the_embedded_stores_are_in_one_file_and_indexed(settings, make_prediction, make_outcome):
    with open_stores(settings) as stores:
        save_predictions(stores.predictions, [make_prediction()])
        save_outcomes(stores.outcomes, [make_outcome()])
    assert [path.name for path in settings.DATA_DIR.iterdir()] == ["e3relax.sqlite"]
    with open_stores(settings) as stores:
        assert stores.predictions.count() == stores.outcomes.count() == 1
        with pytest.raises(StoreError, match="'predictions:prediction_id:unique'"):
            stores.predictions.update({"prediction_id": make_prediction().prediction_id, "x": 1}, key="x")
    with pytest.raises(StoreError, match="not connected"):
        stores.predictions.count()


def test_settings_are_read_where_none_are_given(tmp_path, monkeypatch):
    monkeypatch.setenv("E3RELAX_DATA_DIR", str(tmp_path / "there"))
    monkeypatch.setenv("E3RELAX_CONFIG_FILE", str(tmp_path / "e3relax.yaml"))
    spec = {"type": "SQLiteStore", "path": str(tmp_path / "mine.sqlite")}
    (tmp_path / "e3relax.yaml").write_text(yaml.safe_dump({"PREDICTION_STORE": spec, "OUTCOME_STORE": spec}))
    with open_stores() as stores:
        assert stores.predictions.name == f"sqlite://{tmp_path}/mine.sqlite/predictions"
        assert stores.outcomes.name == f"sqlite://{tmp_path}/mine.sqlite/outcomes"
    data_dir = load_settings().DATA_DIR
    assert data_dir == tmp_path / "there"
    assert not data_dir.exists()


def build(settings: E3RelaxSettings, spec):
    return build_store(spec, settings, "predictions", "prediction_id")


def test_mongo_stores_are_asked_to_acknowledge_on_disk(settings):
    spec = {"type": "MongoStore", "host": "db", "database": "mp", "username": "me", "password": "secret"}
    store = build(settings, spec)
    assert type(store) is MongoStore
    assert (store.key, store.collection_name) == ("prediction_id", "predictions")
    assert store.mongoclient_kwargs == {"w": "majority", "journal": True}
    own = build(settings, {**spec, "mongoclient_kwargs": {"w": 1, "serverSelectionTimeoutMS": 5}})
    assert own.mongoclient_kwargs == {"w": 1, "journal": True, "serverSelectionTimeoutMS": 5}
    assert describe_store(own) == "mongodb://db:27017/mp/predictions"
    uri = build(settings, {"type": "MongoStore", "database": "mp", "uri": "mongodb://me:secret@db:1,dc:2/?w=0"})
    assert uri.mongoclient_kwargs == {}
    assert describe_store(uri) == "mongodb://db:1,dc:2/mp/predictions"


def test_stores_serialised_by_monty_are_taken(settings, tmp_path):
    spec = SQLiteStore(tmp_path / "x.sqlite", "mine").as_dict()
    store = build(settings, spec)
    assert (type(store), store.collection_name, store.key) == (SQLiteStore, "mine", "prediction_id")
    nested = {"type": "AliasingStore", "store": {"type": "MemoryStore"}, "aliases": {"a": "b"}}
    store = build(settings, nested)
    assert isinstance(store, AliasingStore)
    assert isinstance(store.store, MemoryStore)
    assert nested["store"] == {"type": "MemoryStore"}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"type": "SqlStore"}, "'SqlStore' .*known: .*SQLiteStore"),
        ({}, "None is unknown"),
        ({"type": "SQLiteStore"}, "type SQLiteStore: .*'path'"),
        ({"type": "MongoStore", "database": "x", "colection": "y"}, "type MongoStore: .*'colection'"),
        ({"@module": "datetime", "@class": "datetime", "string": "2024-01-01 00:00:00"}, "'datetime' cannot be made"),
        ({"type": "MontyStore"}, "MontyStore .*SQLiteStore"),
        (
            {"type": "AliasingStore", "store": {"type": "JSONStore", "paths": "x"}, "aliases": {}},
            "JSONStore .*SQLiteStore",
        ),
        (JSONStore("x.json").as_dict(), "JSONStore .*SQLiteStore"),
    ],
)
def test_wrong_descriptions_are_refused_in_words(settings, spec, message):
    with pytest.raises(ConfigError, match=message):
        build(settings, spec)


def test_a_server_that_is_away_is_named_without_its_password(settings):
    spec = {
        "type": "MongoStore",
        "host": "127.0.0.1",
        "port": 9,
        "database": "mp",
        "username": "me",
        "password": "secret",
        "mongoclient_kwargs": {"serverSelectionTimeoutMS": 50},
    }
    wrong = settings.model_copy(update={"PREDICTION_STORE": spec})
    with (
        pytest.raises(StoreError, match=r"mongodb://127\.0\.0\.1:9/mp/predictions .*PREDICTION_STORE") as e,
        open_stores(wrong),
    ):
        pass
    assert "secret" not in str(e.value)


def test_a_document_of_another_release_is_named(settings, make_prediction):
    with open_stores(settings) as stores:
        raw = dump_document(make_prediction())
        stores.predictions.update({**raw, "verdict": "perhaps"})
        with pytest.raises(StoreError, match=rf"'{raw['prediction_id']}' is .*PredictionDoc"):
            find_predictions(stores.predictions, [raw["prediction_id"]])


# -- jobs ----------------------------------------------------------------------------------------------------------


@job(data=Structure)
def halve(structure):
    return {"half": structure.copy().scale_lattice(structure.volume / 2), "n": 1}


@job
def measure(structure, number):
    return structure.volume * number


def make_flow(structure):
    first = halve(structure)
    second = measure(first.output["half"], first.output["n"])
    return Flow([first, second], output=second.output), first, second


def test_the_embedded_job_store_runs_flows_with_an_additional_store(settings, make_prediction, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    structure = make_prediction().initial
    flow, first, second = make_flow(structure)
    store = open_job_store(settings)
    responses = run_locally(flow, store=store, create_folders=True, ensure_success=True, log=False)
    assert responses[second.uuid][1].output == pytest.approx(structure.volume / 2)
    store.close()
    assert [path.name for path in settings.DATA_DIR.iterdir()] == ["jobs.sqlite"]

    store = open_job_store(settings)
    assert isinstance(store.docs_store, SQLiteStore)
    assert store.count() == 2
    raw = store.query_one({"uuid": first.uuid})
    assert raw["output"]["half"]["store"] == "data"
    blob = store.additional_stores["data"].query_one({"job_uuid": first.uuid})
    assert Structure.from_dict(blob["data"]).volume == pytest.approx(structure.volume / 2)
    half = store.get_output(first.uuid, load=True)["half"]
    assert Structure.from_dict(half).volume == pytest.approx(structure.volume / 2)
    store.remove_docs({"uuid": first.uuid})
    assert store.count() == 1
    assert store.additional_stores["data"].count() == 0
    store.close()


def test_a_job_that_runs_again_keeps_its_index(settings):
    store = open_job_store(settings)
    for index in (1, 2, 2):
        store.update({"uuid": "u", "index": index, "output": index, "completed_at": datetime(2024, 1, index)})
    assert store.count() == 2
    assert store.get_output("u") == 2
    assert store.get_output("u", which="first") == 1
    assert store.get_output("u", which="all") == [1, 2]
    store.close()


JOBFLOW_YAML = """
JOB_STORE:
  "@module": jobflow.core.store
  "@class": JobStore
  docs_store:
    "@module": e3relax_flows.stores.sqlite
    "@class": SQLiteStore
    path: {path}
    collection_name: outputs
  additional_stores:
    data:
      "@module": e3relax_flows.stores.sqlite
      "@class": SQLiteStore
      path: {path}
      collection_name: data
"""

# a program that knows nothing of this package but the file of jobflow
WORKER = """
from jobflow import SETTINGS, Flow, job, run_locally

@job(data="big")
def make(n):
    return {"big": list(range(n)), "n": n}

@job
def count(numbers):
    return len(numbers)

first = make(1000)
second = count(first.output["big"])
run_locally(Flow([first, second]), ensure_success=True, log=False)
print(type(SETTINGS.JOB_STORE.docs_store).__module__, SETTINGS.JOB_STORE.get_output(second.uuid))
"""


def test_jobflow_takes_the_store_from_its_configuration_file(settings, tmp_path, monkeypatch):
    path, config = tmp_path / "mine.sqlite", tmp_path / "jobflow.yaml"
    config.write_text(JOBFLOW_YAML.format(path=path))
    command = [sys.executable, "-c", WORKER]
    environment = {**os.environ, "JOBFLOW_CONFIG_FILE": str(config)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == "e3relax_flows.stores.sqlite 1000\n", done.stderr

    monkeypatch.setenv("JOBFLOW_CONFIG_FILE", str(config))
    store = open_job_store(settings)
    assert isinstance(store, JobStore)
    assert store.docs_store.path == str(path)
    assert store.count() == 2
    assert store.additional_stores["data"].count() == 1
    assert not settings.DATA_DIR.exists()
    store.close()


def test_a_jobflow_file_without_a_store_leaves_the_embedded_one(settings, tmp_path, monkeypatch):
    config = tmp_path / "jobflow.yaml"
    config.write_text("LOG_FORMAT: '%(message)s'\n")
    monkeypatch.setenv("JOBFLOW_CONFIG_FILE", str(config))
    store = open_job_store(settings)
    assert store.docs_store.path == str(settings.DATA_DIR / "jobs.sqlite")
    store.close()


def test_a_job_store_that_is_away_is_named(settings, tmp_path, monkeypatch):
    config = tmp_path / "jobflow.yaml"
    server = {"type": "MongoStore", "host": "127.0.0.1", "port": 9, "database": "mp", "collection_name": "outputs"}
    server["mongoclient_kwargs"] = {"serverSelectionTimeoutMS": 50}
    config.write_text(yaml.safe_dump({"JOB_STORE": {"docs_store": server}}))
    monkeypatch.setenv("JOBFLOW_CONFIG_FILE", str(config))
    with pytest.raises(StoreError, match=r"mongodb://127\.0\.0\.1:9/mp/outputs .*JOBFLOW_CONFIG_FILE"):
        open_job_store(settings)
