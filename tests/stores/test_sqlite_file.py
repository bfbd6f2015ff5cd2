"""SQLiteStore and its file: processes, threads, files that cannot be used."""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
import sqlite3
import threading

import pytest
from maggma.core import Store as MaggmaStore
from sqlite_documents import DOCS

from e3relax_flows.core.errors import StoreError
from e3relax_flows.stores.sqlite import SQLiteStore


@pytest.fixture
def store(tmp_path):
    with SQLiteStore(tmp_path / "x.sqlite", "docs", key=["uuid", "index"]) as store:
        yield store


@pytest.fixture
def filled(store):
    store.update(copy.deepcopy(DOCS))
    return store


def test_serialised_and_pickled_stores_find_the_same_documents(filled, tmp_path, monkeypatch):
    for twin in (SQLiteStore.from_dict(filled.as_dict()), pickle.loads(pickle.dumps(filled)), copy.deepcopy(filled)):
        assert isinstance(twin, MaggmaStore)
        assert twin == filled
        assert twin.key == ["uuid", "index"]
        with pytest.raises(StoreError, match=r"x\.sqlite .*connect\(\)"):
            twin.count()
        with twin:
            assert twin.count() == len(DOCS)
    monkeypatch.chdir(tmp_path)
    relative = SQLiteStore("x.sqlite", "docs")
    monkeypatch.chdir("/")
    with relative:
        assert relative.count() == len(DOCS)
    assert SQLiteStore(tmp_path / "x.sqlite", "others") != filled


def test_close_and_connect_again(filled):
    filled.connect()
    filled.close()
    filled.close()
    with pytest.raises(StoreError, match=r"x\.sqlite .*connect\(\)"):
        filled.count()
    filled.connect(force_reset=True)
    assert filled.count() == len(DOCS)
    filled.connect(force_reset=True)
    assert filled.count() == len(DOCS)


def test_threads_share_a_store(store):
    def work(number):
        for n in range(20):
            store.update([{"uuid": "shared", "index": n, "by": number}, {"uuid": str(number), "index": n}])
            assert store.count({"uuid": str(number)}) == n + 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.count({"uuid": "shared"}) == 20
    assert store.count() == 20 + 4 * 20


def _use_after_fork(store):
    assert store.count() == len(DOCS)
    store.update({"uuid": "child", "index": os.getpid()})


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_connects_for_itself(filled):
    child = multiprocessing.get_context("fork").Process(target=_use_after_fork, args=(filled,))
    child.start()
    child.join(60)
    assert child.exitcode == 0
    filled.update({"uuid": "parent", "index": 1})
    assert filled.query_one({"uuid": "child"})["index"] == child.pid
    assert filled.count() == len(DOCS) + 2


def test_files_that_cannot_be_used_say_what_to_type(tmp_path):
    text = tmp_path / "notes.txt"
    text.write_text("no database, but long enough to have a header of sixteen bytes\n" * 20)
    with pytest.raises(StoreError, match=r"notes\.txt.* SQLite .*E3RELAX_DATA_DIR"):
        SQLiteStore(text).connect()
    with pytest.raises(StoreError, match=r"below/x\.sqlite: .*\[Errno \d+\].*E3RELAX_DATA_DIR"):
        SQLiteStore(text / "below" / "x.sqlite").connect()
    with pytest.raises(StoreError, match=r"`ls -ld`.*E3RELAX_DATA_DIR"):
        SQLiteStore(tmp_path).connect()
    foreign = tmp_path / "foreign.sqlite"
    with sqlite3.connect(foreign) as connection:
        connection.execute("CREATE TABLE documents (x)")
    with pytest.raises(StoreError, match=r"foreign\.sqlite: .*'documents' .* x\); .*`collection_name`"):
        SQLiteStore(foreign).connect()
    assert text.read_text().startswith("no database")


def test_a_file_that_may_not_be_written_says_so(filled):
    filled._file.fetch("PRAGMA query_only = TRUE")
    with pytest.raises(StoreError, match=r"readonly.*chmod u\+w"):
        filled.update({"uuid": "new", "index": 1})
    assert filled.count() == len(DOCS)


def test_a_locked_file_says_so(tmp_path):
    with SQLiteStore(tmp_path / "x.sqlite", timeout_s=0.1) as store:
        other = sqlite3.connect(tmp_path / "x.sqlite")
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match=r"locked.*fuser"):
            store.update({"task_id": 1})
        other.rollback()
        other.close()
        store.update({"task_id": 1})
        assert store.count() == 1


def test_there_is_no_pymongo_collection(store):
    with pytest.raises(StoreError, match=r"x\.sqlite/docs .*pymongo"):
        _ = store._collection
