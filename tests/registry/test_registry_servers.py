"""The registry on a server that speaks MongoDB's protocol, weights in GridFS and in a bucket."""

from __future__ import annotations

import pytest
from maggma.stores import GridFSStore, MongoStore, S3Store
from test_aliases import check_one_wins

from e3relax_flows.core.errors import ConfigError, ModelError, StoreError
from e3relax_flows.registry import weights as weights_module
from e3relax_flows.registry.aliases import promote, rollback
from e3relax_flows.registry.models import register_model, resolve_model
from e3relax_flows.registry.store import describe_registry, find_alias, find_model_doc, open_alias_store
from e3relax_flows.registry.weights import PART_KEY, open_weights

PART_BYTES = 2000


@pytest.fixture
def mongo(database, settings):
    """Settings with the registry on the server and weights in GridFS."""
    stores = {"MODEL_STORE": database, "WEIGHTS_STORE": database | {"type": "GridFSStore"}}
    return settings.model_copy(update=stores)


@pytest.fixture
def bucket(settings, tmp_path, monkeypatch):
    """Settings with weights in a bucket of a simulated S3 and their index in a file."""
    moto = pytest.importorskip("moto", reason="needs a simulated S3: pip install moto")
    import boto3

    for name, value in {"ACCESS_KEY_ID": "x", "SECRET_ACCESS_KEY": "x", "DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    index = {"type": "SQLiteStore", "path": str(tmp_path / "index.sqlite")}
    spec = {"type": "S3Store", "bucket": "e3relax-models", "sub_dir": "weights", "index": index}
    with moto.mock_aws():
        boto3.client("s3").create_bucket(Bucket="e3relax-models")
        yield settings.model_copy(update={"WEIGHTS_STORE": spec})


def check_weights(settings, make_model, monkeypatch):
    """Weights come back from an empty cache; what was changed in the store is refused, and mended."""
    monkeypatch.setattr(weights_module, "PART_BYTES", PART_BYTES)
    folder = make_model(size=5001)
    doc = register_model(folder, settings, metrics={"mp": {"strain": 0.25}})
    assert find_model_doc(doc.model_id, settings) == doc
    assert doc.config == folder.config
    cached = resolve_model("mine", settings)
    assert cached.path == settings.DATA_DIR / "model_cache" / doc.model_id
    assert (cached.model_id, cached.config) == (folder.model_id, folder.config)
    place = open_weights(settings)
    part = {PART_KEY: f"{doc.weights_sha256}-0001", "sha256": doc.weights_sha256, "data": "AAAA"}
    with place.store as store:
        store.update([part])
    assert resolve_model("mine", settings) == cached
    (cached.path / "weights.safetensors").write_bytes(b"half")
    with pytest.raises(ModelError, match=rf" mine \({doc.model_id}\) in .*models import FOLDER"):
        resolve_model("mine", settings)
    assert register_model(folder, settings) == doc
    assert resolve_model("mine", settings) == cached
    return place.store


def test_weights_in_gridfs(mongo, make_model, monkeypatch):
    store = check_weights(mongo, make_model, monkeypatch)
    assert type(store) is GridFSStore
    with store:
        assert store.count() == 3  # a part that is written again takes the place of the old one
        assert store._files_collection.write_concern.document == {"w": "majority", "j": True}


@pytest.mark.slow
def test_weights_in_a_bucket(bucket, make_model, monkeypatch):
    store = check_weights(bucket, make_model, monkeypatch)
    assert type(store) is S3Store
    with store:
        keys = sorted(item.key for item in store.s3_bucket.objects.all())
    assert len(keys) == 3
    assert all(key.startswith("weights/") for key in keys)


def test_a_bucket_that_is_not_there_is_named(bucket, make_model):
    other = {**bucket.WEIGHTS_STORE, "bucket": "e3relax-nowhere"}
    with pytest.raises(StoreError, match=r"s3://e3relax-nowhere .*\(Bucket .*WEIGHTS_STORE"):
        register_model(make_model(), bucket.model_copy(update={"WEIGHTS_STORE": other}))
    assert find_model_doc(make_model().model_id, bucket) is None


def test_of_movers_at_once_on_a_server_one_wins(mongo, make_model, monkeypatch):
    models = [register_model(make_model(f"m{seed}", seed), mongo).model_id for seed in range(3)]
    check_one_wins(mongo, models, monkeypatch)
    with open_alias_store(mongo) as store:
        assert type(store) is MongoStore
        assert store.count() == 1
        assert store._collection.index_information()["name_1"]["unique"] is True


def test_the_history_comes_back_from_a_server(mongo, make_model):
    doc = register_model(make_model(), mongo)
    document = promote("default", doc.model_id, "a", gate_id="gate-1", settings=mongo)
    assert find_alias("default", mongo) == document
    assert resolve_model(doc.model_id[:9], mongo).model_id == doc.model_id
    assert rollback("default", "b", mongo).version == 2
    assert [move.rollback for move in find_alias("default", mongo).history] == [False, True]


def test_a_server_that_is_not_there_is_named_without_its_password(settings, make_model):
    client = {"serverSelectionTimeoutMS": 100}
    registry = {"type": "MongoStore", "database": "x", "host": "127.0.0.1", "port": 1, "mongoclient_kwargs": client}
    uri = "mongodb://me:secret@127.0.0.1:1/x"
    weights = {"type": "GridFSStore", "database": "x", "uri": uri, "mongoclient_kwargs": client}
    with pytest.raises(StoreError, match=r"mongodb://127\.0\.0\.1:1/x/aliases .*MODEL_STORE"):
        resolve_model("default", settings.model_copy(update={"MODEL_STORE": registry}))
    assert describe_registry(settings.model_copy(update={"MODEL_STORE": registry})) == "mongodb://127.0.0.1:1/x/models"
    with pytest.raises(StoreError, match=r"gridfs://127\.0\.0\.1:1/x/weights .*WEIGHTS_STORE") as error:
        register_model(make_model(), settings.model_copy(update={"WEIGHTS_STORE": weights}))
    assert "secret" not in str(error.value)
    with pytest.raises(ConfigError, match="store type 'Bucket' is unknown"):
        register_model(make_model(), settings.model_copy(update={"WEIGHTS_STORE": {"type": "Bucket"}}))
