"""SQLiteStore: the contract of a maggma store, MongoDB's queries, and errors in words."""

from __future__ import annotations

import copy
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from bson import ObjectId
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from maggma.core import Sort
from maggma.stores import MemoryStore
from sqlite_documents import DOCS, QUERIES, strip

from e3relax_flows.core.errors import StoreError
from e3relax_flows.stores.mongo_queries import build_prefilter
from e3relax_flows.stores.sqlite import SQLiteStore


@pytest.fixture
def store(tmp_path):
    with SQLiteStore(tmp_path / "x.sqlite", "docs", key=["uuid", "index"]) as store:
        yield store


@pytest.fixture
def filled(store):
    store.update(copy.deepcopy(DOCS))
    return store


@pytest.fixture(scope="module")
def memory():
    with MemoryStore(key="uuid") as memory:
        memory._collection.insert_many(copy.deepcopy(DOCS))
        yield memory


# -- queries -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("indexed", [False, True])
@pytest.mark.parametrize("criteria", QUERIES, ids=str)
def test_queries_find_what_memory_store_finds(filled, memory, criteria, indexed):
    if indexed:
        for field in ("uuid", "energy", "flag", "tags", "cell.a", "sites.el"):
            assert filled.ensure_index(field)
    expected = strip(memory.query(copy.deepcopy(criteria)))
    assert list(filled.query(criteria)) == expected
    assert filled.count(criteria) == len(expected)


def test_the_queries_above_are_no_empty_promise(memory):
    sizes = [len(list(memory.query(copy.deepcopy(criteria)))) for criteria in QUERIES]
    assert sum(size == 0 for size in sizes) <= 5
    assert sizes[QUERIES.index({"sites": {"$elemMatch": {"el": "Fe", "n": 3}}})] == 1
    assert sizes[QUERIES.index({"sites.el": "Fe", "sites.n": 3})] == 2
    assert sizes[QUERIES.index({"energy": None})] == 2


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from([0.5, 1.0, "", "x", "1", "é\n", "<nested>"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
    max_leaves=4,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    docs=st.lists(st.dictionaries(st.sampled_from("ab"), VALUES, max_size=2), min_size=1, max_size=4),
    field=st.sampled_from(["a", "b", "a.b", "a.a.b"]),
    values=st.lists(VALUES, min_size=1, max_size=3),
)
def test_sql_never_hides_a_document_that_matches(store, docs, field, values):
    store.remove_docs({})
    store.update([{**doc, "uuid": str(n), "index": n} for n, doc in enumerate(docs)])
    stored = list(store.query())
    with MemoryStore(key="uuid") as memory:
        memory._collection.insert_many(copy.deepcopy(stored))
        for criteria in ({field: {"$eq": values[0]}}, {field: {"$in": values}}):
            assert list(store.query(criteria)) == strip(memory.query(copy.deepcopy(criteria)))


def test_key_queries_use_an_index(filled):
    for criteria in ({"uuid": "b"}, {"uuid": {"$in": ["a", "b"]}}, {"uuid": "b", "index": 1}):
        condition, parameters = build_prefilter(criteria)
        plan = filled._file.fetch(f'EXPLAIN QUERY PLAN SELECT id FROM "docs" WHERE {condition}', parameters)
        assert "SEARCH docs USING INDEX docs:uuid,index:key" in plan[0][-1]


def test_long_lists_of_ids_are_looked_up(store):
    ids = [f"id-{n}" for n in range(3000)]
    store.update([{"uuid": name, "index": 0} for name in ids[:1500]])
    assert store.count({"uuid": {"$in": ids}}) == 1500
    assert store.count({"uuid": {"$in": ids[1400:]}, "index": 0}) == 100


@pytest.mark.parametrize(
    "properties",
    [
        None,
        [],
        ["uuid"],
        ["cell.a"],
        ["sites.el", "uuid"],
        {"uuid": 1, "_id": 0},
        {"tags": 0, "cell.a": 0},
        {"_id": 0},
        {"sites.n": 0},
    ],
    ids=str,
)
def test_projection_as_in_memory_store(filled, memory, properties):
    assert list(filled.query({}, properties)) == strip(memory.query({}, copy.deepcopy(properties)))


def test_a_whole_field_wins_over_its_parts(filled):
    for properties in (["cell", "cell.a"], ["cell.a", "cell"]):
        assert filled.query_one({"uuid": "a"}, properties) == {"cell": DOCS[0]["cell"]}


def test_projection_that_cannot_be_done_says_so(filled):
    with pytest.raises(StoreError, match=r"\{'uuid': 1, 'tags': 0\}"):
        list(filled.query({}, {"uuid": 1, "tags": 0}))
    with pytest.raises(StoreError, match=r"projection .*field 'tags'"):
        list(filled.query({}, {"tags": {"$slice": 1}}))


@pytest.mark.parametrize(
    "sort", [{"uuid": -1}, {"index": Sort.Descending, "uuid": 1}, {"energy": 1}, {"cell.a": -1, "uuid": -1}], ids=str
)
def test_sort_skip_limit_as_in_memory_store(filled, memory, sort):
    plain = {key: value.value if isinstance(value, Sort) else value for key, value in sort.items()}
    assert list(filled.query(sort=sort)) == strip(memory.query(sort=plain))
    assert list(filled.query(sort=sort, skip=1, limit=2)) == strip(memory.query(sort=plain, skip=1, limit=2))


def test_skip_and_limit_without_sort_keep_insertion_order(filled):
    assert [doc["uuid"] + str(doc["index"]) for doc in filled.query(skip=1, limit=3)] == ["b1", "b2", "c1"]
    filled.update({"uuid": "a", "index": 1, "new": True})
    assert next(filled.query())["new"] is True


def test_distinct(filled, memory):
    assert filled.distinct("uuid") == ["a", "b", "c", "d"]
    assert filled.distinct("tags") == ["oxide", "spinel", "x"]
    assert filled.distinct("sites.el") == ["Fe", "O"]
    assert filled.distinct("cell.a") == [3.0, 4.0, 5, 9.0]
    assert filled.distinct("uuid", {"index": 2}) == ["b"]
    assert filled.distinct("absent") == []
    assert set(map(str, filled.distinct("sites.n"))) == set(map(str, memory.distinct("sites.n")))


def test_groupby(filled, memory):
    groups = {key["uuid"]: len(docs) for key, docs in filled.groupby("uuid")}
    assert groups == {"a": 1, "b": 2, "c": 1, "d": 1}
    [(key, docs)] = filled.groupby(["uuid", "index"], {"index": 2}, properties=["tags"])
    assert key == {"uuid": "b", "index": 2}
    assert docs == [{"uuid": "b", "index": 2, "tags": ["oxide"]}]
    nested = [(key, len(docs)) for key, docs in filled.groupby("cell.a", {"uuid": {"$in": ["a", "b"]}})]
    assert nested == [(key, len(docs)) for key, docs in memory.groupby("cell.a", {"uuid": {"$in": ["a", "b"]}})]


# -- writing -------------------------------------------------------------------------------------------------------


def test_update_replaces_by_key_and_keeps_the_rest(filled):
    filled.update([{"uuid": "b", "index": 1, "energy": 7}, {"uuid": "b", "index": 3}])
    assert filled.count() == len(DOCS) + 1
    assert filled.query_one({"uuid": "b", "index": 1}) == {"uuid": "b", "index": 1, "energy": 7}
    assert filled.query_one({"uuid": "b", "index": 2})["tags"] == ["oxide"]
    filled.update({"uuid": "e", "index": 1, "energy": 7}, key="energy")
    assert filled.count({"uuid": "e"}) == 1
    assert filled.count({"uuid": "b", "index": 1}) == 0


@pytest.mark.parametrize("key", [True, 1, 1.5, "1", None, datetime(2024, 1, 1), ObjectId("0" * 24), {"a": 1}, [1, 2]])
def test_any_value_can_be_a_key(tmp_path, key):
    with SQLiteStore(tmp_path / "x.sqlite", key="k") as store:
        for value in (key, "other", key):
            store.update({"k": value, "n": 1})
        assert store.count() == 2


def test_update_without_key_field_says_which(store):
    with pytest.raises(StoreError, match=r"'index'.* uuid\).*`key`"):
        store.update([{"uuid": "a", "index": 1}, {"uuid": "a"}])
    assert store.count() == 0


def test_a_batch_that_fails_is_not_written_at_all(filled):
    assert filled.ensure_index("name", unique=True)
    with pytest.raises(StoreError, match="'docs:name:unique'"):
        filled.update([{"uuid": str(n), "index": 0, "name": name} for n, name in enumerate("xyx")])
    assert filled.count() == len(DOCS)
    filled.update([{"uuid": str(n), "index": 0, "name": name} for n, name in enumerate("xyz")])
    assert filled.count() == len(DOCS) + 3
    assert not filled.ensure_index("index", unique=True)


def test_write_once(filled):
    new = [{"uuid": "a", "index": 1, "energy": 0}, {"uuid": "z", "index": 1}, {"uuid": "z", "index": 1, "second": 1}]
    assert filled.write_once(new) == 1
    assert filled.query_one({"uuid": "a"}) == DOCS[0]
    assert filled.write_once(new[:1], replaceable={"energy": {"$gt": 0}}) == 0
    assert filled.write_once(new[:1], replaceable={"energy": -1.5}) == 1
    assert filled.query_one({"uuid": "a"})["energy"] == 0


def test_remove_docs(filled):
    filled.remove_docs({"tags": "oxide"})
    assert sorted(filled.distinct("uuid")) == ["b", "c", "d"]
    filled.remove_docs({})
    assert filled.count() == 0


def test_the_store_may_be_written_while_it_is_followed(store):
    store.update([{"uuid": str(n), "index": 0} for n in range(50)])
    for doc in store.query():
        store.update([{**doc, "seen": True}, {**doc, "index": 1}])
    assert store.count({"seen": True}) == 50
    assert store.count() == 100


def test_values_come_back_as_from_mongodb(store):
    time = datetime(2024, 5, 6, 7, 8, 9, 123987)
    east = datetime(2024, 5, 6, 9, 8, 9, 123987, tzinfo=UTC) + timedelta(hours=-2)
    doc = {
        "uuid": "a",
        "index": 0,
        "time": time,
        "aware": east,
        "old": datetime(1, 1, 1),
        "oid": ObjectId("65a1b2c3d4e5f60718293a4b"),
        "raw": b"\x00\xff",
        "numbers": np.array([[1.5, float("inf")]]),
        "nan": float("nan"),
        "big": 10**30,
        "tuple": (1, 2),
        "query": {"$date": "yesterday", "$regex": "^a", "$oid": 3},
        "long": "x" * 20_000_000,
    }
    store.update(doc)
    back = store.query_one({"uuid": "a"})
    cut = time.replace(microsecond=123000)
    assert back["time"] == cut
    assert back["aware"] == cut
    assert back["old"] == datetime(1, 1, 1)
    assert back["oid"] == doc["oid"]
    assert back["raw"] == b"\x00\xff"
    assert back["numbers"] == [[1.5, float("inf")]]
    assert np.isnan(back["nan"])
    assert back["big"] == 10**30
    assert back["tuple"] == [1, 2]
    assert back["query"] == doc["query"]
    assert len(back["long"]) == 20_000_000
    for criteria in (
        {"time": time},
        {"aware": east},
        {"time": {"$gte": east}},
        {"oid": doc["oid"]},
        {"raw": b"\0\xff"},
    ):
        assert store.count(criteria) == 1, criteria
    assert store.count({"time": {"$gt": east}}) == 0


def test_last_updated_and_newer_in(tmp_path):
    times = [datetime(2024, 1, day) for day in (1, 2, 3, 4)]
    with (
        SQLiteStore(tmp_path / "x.sqlite", "old", key="uuid") as old,
        SQLiteStore(tmp_path / "x.sqlite", "new", key="uuid") as new,
    ):
        assert old.last_updated == datetime.min
        new.update([{"uuid": name, "last_updated": time} for name, time in zip("abcd", times, strict=True)])
        old.update([{"uuid": name, "last_updated": times[1]} for name in "abc"])
        assert new.last_updated == times[3]
        assert sorted(old.newer_in(new)) == ["c", "d"]
        assert sorted(old.newer_in(new, exhaustive=True)) == ["c", "d"]
        assert new.newer_in(old) == []
