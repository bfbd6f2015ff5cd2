"""Models that are registered are found by alias, name and id, and are what they were or are refused."""

from __future__ import annotations

import errno
import os
import re
import sqlite3
import threading
from datetime import UTC, datetime

import pytest
import torch

from e3relax_flows.core.errors import ConfigError, ModelError, StoreError
from e3relax_flows.core.model_folders import CONFIG_FILE, WEIGHTS_FILE, find_model, read_model_folder
from e3relax_flows.core.settings import DATA_FILE
from e3relax_flows.ledger.store import open_stores
from e3relax_flows.model.files import load_network, save_model
from e3relax_flows.model.network import E3RelaxH2
from e3relax_flows.registry import weights as weights_module
from e3relax_flows.registry.aliases import promote
from e3relax_flows.registry.models import fetch_model, list_models, locate_model, register_model, resolve_model
from e3relax_flows.registry.store import find_alias, find_model_doc, open_model_store
from e3relax_flows.registry.weights import PART_KEY, StoredWeights
from e3relax_flows.stores.opening import dump_document
from e3relax_flows.stores.sqlite import SQLiteStore

SIZES = {"n_layers": 1, "n_scalars": 8, "n_vectors": 4, "n_tensors": 2, "n_densities": 2, "n_hidden": 8, "l_max": 1}


@pytest.fixture
def stored(settings, tmp_path):
    """Settings whose weights are in a store, in parts of 2000 bytes."""
    spec = {"type": "SQLiteStore", "path": str(tmp_path / "server" / "weights.sqlite"), "collection_name": "parts"}
    return settings.model_copy(update={"WEIGHTS_STORE": spec})


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(weights_module, "PART_BYTES", 2000)


def open_parts(settings):
    spec = settings.WEIGHTS_STORE
    return SQLiteStore(spec["path"], spec["collection_name"], key=PART_KEY)


# -- ids -------------------------------------------------------------------------------------------------------------


def test_an_id_survives_saving_loading_and_casting(tmp_path, settings):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        network = E3RelaxH2.from_config(SIZES)
    first = save_model(tmp_path / "a" / "net", network, "# first\n")
    doc = register_model(first, settings)
    fetched = resolve_model(doc.model_id, settings)
    assert fetched.path != first.path
    loaded = load_network(fetched, "cpu", torch.float64)
    loaded = loaded.to(torch.float32)
    again = save_model(tmp_path / "b" / "other-name", loaded, "# another card\n")
    assert again.model_id == doc.model_id == first.model_id
    with torch.no_grad():
        next(loaded.parameters()).view(-1)[0] += 1e-6
    assert save_model(tmp_path / "c" / "net", loaded, "").model_id != first.model_id
    halved = load_network(fetched, "cpu", torch.float16).to(torch.float32)
    assert save_model(tmp_path / "d" / "net", halved, "").model_id != first.model_id


# -- looking ---------------------------------------------------------------------------------------------------------


def test_looking_makes_nothing(settings):
    assert resolve_model("default", settings) == find_model("default")
    assert find_alias("default", settings) is None
    assert find_model_doc("0" * 16, settings) is None
    assert [model.name for model in list_models(settings).models] == ["base", "small", "small-pbesol", "small-r2scan"]
    assert not settings.DATA_DIR.exists()
    with open_stores(settings):
        pass
    before = list_tables(settings)
    assert resolve_model("default", settings) == find_model("default")
    assert list_tables(settings) == before
    assert "models" not in before


def list_tables(settings):
    with sqlite3.connect(settings.DATA_DIR / DATA_FILE) as connection:
        tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    connection.close()
    return tables


def test_a_registered_model_comes_back_with_its_facts(settings, make_model):
    folder = make_model()
    facts = {"parent_id": "a" * 16, "metrics": {"mp": {"displacement": 0.0125}}, "training_hours": 1.5}
    doc = register_model(folder, settings, **facts)
    assert find_model_doc(folder.model_id, settings) == doc
    assert (doc.model_id, doc.name, doc.n_bytes, doc.card) == (folder.model_id, "mine", 5000, "# mine\n")
    assert doc.config == folder.config
    assert doc.metrics == {"mp": {"displacement": 0.0125}}
    assert (doc.parent_id, doc.training_hours) == ("a" * 16, 1.5)
    assert abs((datetime.now(UTC) - doc.created_at).total_seconds()) < 60
    # again, with other facts and under another name: what is registered stays
    assert register_model(folder, settings, name="yours", training_hours=9.0) == doc
    assert (settings.DATA_DIR / "models" / doc.model_id / WEIGHTS_FILE).read_bytes() == b"\0" * 5000


def test_facts_that_are_unknown_or_read_from_the_files_are_refused(settings, make_model):
    with pytest.raises(ConfigError, match=r"^hours .*training_hours"):
        register_model(make_model(), settings, hours=3)
    with pytest.raises(ConfigError, match=r"^model_id .*training_hours"):
        register_model(make_model(), settings, model_id="0" * 16)
    with pytest.raises(ConfigError, match=r" mine: training_hours: .*'long'"):
        register_model(make_model(), settings, training_hours="long")
    assert not settings.DATA_DIR.exists()


def test_a_model_is_found_by_alias_name_id_and_path(settings, make_model):
    doc = register_model(make_model(), settings)
    promote("ours", doc.model_id, "a test", settings=settings)
    place = settings.DATA_DIR / "models" / doc.model_id
    for spec in ("mine", "ours", doc.model_id, doc.model_id[:8], doc.model_id[:15], str(place)):
        found = resolve_model(spec, settings)
        assert (found.model_id, found.path) == (doc.model_id, place), spec
    assert [resolve_model(spec, settings).name for spec in ("mine", "ours", doc.model_id[:8])] == ["mine"] * 3
    assert fetch_model(doc.model_id, settings).path == place
    assert resolve_model("default", settings) == find_model("base")


def test_what_is_no_model_is_answered_with_what_is(settings, make_model):
    doc = register_model(make_model(), settings)
    promote("ours", doc.model_id, "a test", settings=settings)
    known = r"5 known models \(base, mine, small, small-pbesol, small-r2scan\)"
    message = rf"model 'your' .*\(default, ours\).* {known}.*`e3relax models list`"
    with pytest.raises(ModelError, match=message):
        resolve_model("your", settings)
    for spec in (doc.model_id[:7], "f" * 16, "0" * 8, "", "../models"):
        with pytest.raises(ModelError, match=re.escape(f"model {spec!r} ") + ".*`e3relax models list`"):
            resolve_model(spec, settings)
    with pytest.raises(ModelError, match=r"'mine' .*models list`.*models import FOLDER"):
        fetch_model("mine", settings)


def test_models_of_one_name_are_told_apart_by_id(settings, make_model):
    first = register_model(make_model("retrained", 1), settings)
    second = register_model(make_model("retrained", 2), settings)
    with pytest.raises(ModelError, match=rf"'retrained' .*{first.model_id}.*{second.model_id}"):
        resolve_model("retrained", settings)
    assert resolve_model(second.model_id, settings).model_id == second.model_id


@pytest.mark.parametrize("name", ["default", "small", "deadbeef", "../up", ".hidden", "a b", "", "ours"])
def test_names_that_mean_something_else_are_refused(settings, make_model, name):
    promote("ours", find_model("small").model_id, "a test", settings=settings)
    with pytest.raises(ModelError, match=rf"^'{re.escape(name)}' "):
        register_model(make_model(), settings, name=name)
    assert find_model_doc(make_model().model_id, settings) is None


def test_a_document_cannot_lead_out_of_the_folder(settings, make_model):
    doc = register_model(make_model(), settings)
    with open_model_store(settings) as store:
        store.update([{**dump_document(doc), "model_id": "../../evil"}])
    with pytest.raises(StoreError, match=r"/models: '\.\./\.\./evil' "):
        resolve_model("mine", settings)


def test_a_model_imported_before_is_registered_where_it_is(settings, make_model):
    made = make_model()
    place = settings.DATA_DIR / "models" / "mine"
    place.parent.mkdir(parents=True)
    made.path.rename(place)
    folder = resolve_model("mine", settings)
    assert folder.path == place
    assert locate_model("mine", settings).doc is None
    doc = register_model(folder, settings)
    assert [path.name for path in place.parent.iterdir()] == ["mine"]
    assert fetch_model(doc.model_id, settings).path == place


def test_model_folders_of_all_machines_may_be_elsewhere(settings, make_model, tmp_path):
    shared = settings.model_copy(update={"WEIGHTS_STORE": {"type": "FileStore", "path": str(tmp_path / "shared")}})
    doc = register_model(make_model(), shared)
    assert resolve_model("mine", shared).path == tmp_path / "shared" / doc.model_id
    elsewhere = rf" mine \({doc.model_id}\) .*data/models; .*models import FOLDER.*WEIGHTS_STORE"
    with pytest.raises(ModelError, match=elsewhere):
        resolve_model("mine", settings)
    with pytest.raises(ConfigError, match=r"WEIGHTS_STORE .*'FileStore'.*path: FOLDER"):
        resolve_model("mine", settings.model_copy(update={"WEIGHTS_STORE": {"type": "FileStore"}}))


# -- damage ----------------------------------------------------------------------------------------------------------


def tamper(path):
    content = bytearray(path.read_bytes())
    content[1234] ^= 1
    path.write_bytes(content)


def truncate(path):
    path.write_bytes(path.read_bytes()[:3000])


def change_config(path):
    config = path.parent / CONFIG_FILE
    config.write_text(config.read_text().replace("5.0", "6.0"))


def lose(path):
    path.unlink()


def lose_config(path):
    (path.parent / CONFIG_FILE).unlink()


DAMAGES = [tamper, truncate, change_config, lose, lose_config]


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_files_are_refused_and_mended(settings, make_model, damage):
    folder = make_model()
    doc = register_model(folder, settings)
    damage(settings.DATA_DIR / "models" / doc.model_id / WEIGHTS_FILE)
    for spec in ("mine", doc.model_id, doc.model_id[:8]):
        with pytest.raises(ModelError, match="models import FOLDER"):
            resolve_model(spec, settings)
    with pytest.raises(ModelError, match="models import FOLDER"):
        promote("default", doc.model_id, "a test", settings=settings)
    assert register_model(folder, settings) == doc
    assert resolve_model("mine", settings).model_id == doc.model_id


def test_a_damaged_folder_is_not_registered(settings, make_model):
    folder = make_model()
    tamper(folder.path / WEIGHTS_FILE)
    with pytest.raises(ModelError, match=r"weights\.safetensors .* sha256 .* config\.json .*models import FOLDER"):
        register_model(folder, settings)
    with pytest.raises(ModelError, match=r"weights\.safetensors .* sha256 .* config\.json "):
        register_model(read_model_folder(folder.path), settings)
    assert not settings.DATA_DIR.exists()


# -- weights in a store ----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("small_parts")
def test_weights_are_fetched_into_an_empty_cache(stored, make_model):
    folder = make_model(size=5001)
    doc = register_model(folder, stored)
    cache = stored.DATA_DIR / "model_cache"
    assert not cache.exists()
    with open_parts(stored) as parts:
        sizes = [len(part["data"]) for part in parts.query(sort={PART_KEY: 1})]
    assert [3 * size // 4 for size in sizes] == [2001, 2001, 1002]  # base64 of 2000, 2000 and 1001 bytes
    fetched = resolve_model("mine", stored)
    assert fetched.path == cache / doc.model_id
    assert (fetched.model_id, fetched.name, fetched.config) == (doc.model_id, "mine", folder.config)
    assert sorted(path.name for path in fetched.path.iterdir()) == ["card.md", "config.json", "weights.safetensors"]
    assert [path.name for path in cache.iterdir()] == [doc.model_id]
    os.remove(stored.WEIGHTS_STORE["path"])  # what is here and whole is not fetched again
    assert resolve_model("mine", stored) == fetched


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_broken_copy_is_fetched_again(stored, make_model, damage):
    doc = register_model(make_model(), stored)
    path = resolve_model("mine", stored).path
    damage(path / WEIGHTS_FILE)
    again = resolve_model("mine", stored)
    assert (again.path, again.model_id) == (path, doc.model_id)
    assert read_model_folder(path).model_id == doc.model_id
    assert [entry.name for entry in path.parent.iterdir()] == [doc.model_id]


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("harm", ["change", "lose", "lengthen", "nonsense"])
def test_damage_in_the_store_is_refused_and_mended(stored, make_model, harm):
    folder = make_model()
    doc = register_model(folder, stored)
    name = f"{doc.weights_sha256}-0001"
    with open_parts(stored) as parts:
        part = parts.query_one({PART_KEY: name})
        if harm == "lose":
            parts.remove_docs({PART_KEY: name})
        else:
            data = {"change": "B" + part["data"][1:], "lengthen": part["data"][:-4] + "AAAA" * 9, "nonsense": "%"}
            parts.update([{**part, "data": data[harm]}])
    with pytest.raises(
        ModelError, match=rf" mine \({doc.model_id}\) in .*weights\.sqlite/parts .*models import FOLDER"
    ):
        resolve_model("mine", stored)
    assert not (stored.DATA_DIR / "model_cache").exists()
    register_model(folder, stored)
    assert resolve_model("mine", stored).model_id == doc.model_id


def test_a_full_disk_leaves_nothing_half_written(stored, make_model, monkeypatch):
    doc = register_model(make_model(), stored)

    def fail(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(ModelError, match=r" mine .*/model_cache/.*\(No space .*`df -h`.*E3RELAX_DATA_DIR"):
            resolve_model("mine", stored)
    assert list((stored.DATA_DIR / "model_cache").iterdir()) == []
    assert resolve_model("mine", stored).model_id == doc.model_id


@pytest.mark.usefixtures("small_parts")
def test_many_fetch_at_once(stored, make_model):
    doc = register_model(make_model(size=50_000), stored)
    found, barrier = [], threading.Barrier(4)

    def fetch():
        barrier.wait()
        found.append(resolve_model("mine", stored).model_id)

    threads = [threading.Thread(target=fetch) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [doc.model_id] * 4


def test_whoever_fetches_second_leaves_what_the_first_has_written(stored, make_model, monkeypatch):
    doc = register_model(make_model(), stored)
    place = stored.DATA_DIR / "model_cache" / doc.model_id
    read, seen = StoredWeights._read, []

    def read_late(self, store, model):
        if not seen:  # another fetches the same between the look into the cache and the writing
            seen.append(None)
            resolve_model("mine", stored)
            seen.append(place.stat().st_ino)
        return read(self, store, model)

    monkeypatch.setattr(StoredWeights, "_read", read_late)
    assert resolve_model("mine", stored).model_id == doc.model_id
    assert seen[1] == place.stat().st_ino  # it was never away, so that a third could have missed it


def test_a_store_that_may_lose_moves_is_refused(settings, make_model):
    spec = {"type": "ConcatStore", "stores": []}
    with pytest.raises(ConfigError, match=r"MODEL_STORE .*ConcatStore, .*MongoStore, .*SQLiteStore"):
        register_model(make_model(), settings.model_copy(update={"MODEL_STORE": spec}))


def test_the_registry_may_be_in_a_file_of_its_own(settings, make_model, tmp_path):
    spec = {"type": "SQLiteStore", "path": str(tmp_path / "models.sqlite"), "collection_name": "group"}
    own = settings.model_copy(update={"MODEL_STORE": spec})
    assert find_alias("default", own) is None
    assert not (tmp_path / "models.sqlite").exists()
    doc = register_model(make_model(), own)
    promote("default", doc.model_id, "a test", settings=own)
    assert resolve_model("default", own).model_id == doc.model_id
    with sqlite3.connect(tmp_path / "models.sqlite") as connection:
        tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    connection.close()
    assert tables == {"group", "group_aliases"}
    assert not (settings.DATA_DIR / DATA_FILE).exists()
