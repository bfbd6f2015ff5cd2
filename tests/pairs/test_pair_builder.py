"""PairBuilder on embedded stores and on a server, under mrun, and with stores that fail in the middle."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from maggma.core import Store
from maggma.stores import MemoryStore
from monty.json import MontyDecoder, MontyEncoder
from task_documents import MINIMUM, build_salt, job_document, vasp_output

from e3relax_flows.core.errors import ConfigError, StoreError
from e3relax_flows.engines.task_reader import TaskReader
from e3relax_flows.ledger.store import open_stores, save_outcomes, save_predictions
from e3relax_flows.pairs.builder import PairBuilder
from e3relax_flows.pairs.store import (
    PairStores,
    find_pairs,
    find_records,
    iter_pairs,
    open_pair_store,
    open_pair_stores,
    open_record_store,
    save_pairs,
)
from e3relax_flows.schemas.outcomes import StartKind
from e3relax_flows.schemas.pairs import LeftOut
from e3relax_flows.stores.opening import dump_document
from e3relax_flows.stores.sqlite import SQLiteStore

RELAXED = build_salt(MINIMUM)


def fill(store: Store, n: int, first: int = 0) -> None:
    """Relaxations of one flow each, all from another lattice constant."""
    documents = [
        job_document(vasp_output(build_salt(5.7 + 0.01 * i), RELAXED), f"v-{i:03d}", hosts=[f"f-{i}"])
        for i in range(first, first + n)
    ]
    store.update(documents, key=["uuid", "index"])


def run(builder: PairBuilder, at_once: int = 10) -> Counter[str]:
    builder.connect()
    items = list(builder.get_items())
    for start in range(0, len(items), at_once):
        builder.update_targets([builder.process_item(item) for item in items[start : start + at_once]])
    return builder.counts


@pytest.fixture
def tasks(tmp_path) -> SQLiteStore:
    store = SQLiteStore(tmp_path / "jobs.sqlite", "outputs", key="uuid")
    store.connect()
    return store


def test_stores_by_the_settings_keep_pairs_and_records(settings, tasks):
    fill(tasks, 3)
    with open_pair_stores(settings) as stores:
        assert run(PairBuilder(stores.pairs, stores.records, tasks, TaskReader())) == {"new": 3}
        pairs = list(iter_pairs(stores.pairs))
        assert [pair.origin_id for pair in pairs] == ["v-000", "v-001", "v-002"]
        ids = [pairs[2].pair_id, "absent", pairs[0].pair_id]
        assert list(find_pairs(stores.pairs, ids)) == [pairs[2].pair_id, pairs[0].pair_id]
        assert save_pairs(stores.pairs, pairs) == 0
        assert find_records(stores.records, ["v-001"])["v-001"].pair_id == pairs[1].pair_id
        stores.pairs.update([{**stores.pairs.query_one({"origin_id": "v-001"}), "superseded_by": "x"}])
        assert len(list(iter_pairs(stores.pairs))) == 2
        assert [pair.superseded_by for pair in iter_pairs(stores.pairs, {"origin_id": "v-001"})] == ["x"]


def test_a_described_pair_store_has_its_records_beside_it(settings, tmp_path):
    spec = {"type": "SQLiteStore", "path": str(tmp_path / "p.sqlite"), "collection_name": "mine"}
    described = settings.model_copy(update={"PAIR_STORE": spec})
    with open_pair_store(described) as pairs, open_record_store(described) as records:
        assert (pairs.collection_name, pairs.key) == ("mine", "pair_id")
        assert (records.collection_name, records.key) == ("mine_records", "origin_id")
        assert pairs.path == records.path
    wrong = settings.model_copy(update={"PAIR_STORE": {"type": "JSONStore", "paths": "x.json"}})
    with pytest.raises(ConfigError, match="JSONStore"), open_pair_stores(wrong):
        pass


class Failing(SQLiteStore):
    """A store one of whose writes fails, before it was done or after."""

    fails_at = -1  # how many writes are still to come, the failing one included
    fails_after = False

    def _write(self, *arguments: Any, **options: Any) -> int:
        self.fails_at -= 1
        if self.fails_at == 0 and not self.fails_after:
            raise StoreError("the disk is full")
        n_written = super()._write(*arguments, **options)
        if self.fails_at == 0:
            raise StoreError("the answer is lost")
        return n_written


@pytest.mark.parametrize("fails_after", [False, True])
@pytest.mark.parametrize("which", ["pairs", "records"])
@pytest.mark.parametrize("at", [1, 2])
def test_a_store_that_fails_in_the_middle_leaves_nothing_half_recorded(tasks, tmp_path, which, at, fails_after):
    fill(tasks, 25)
    stores = {name: Failing(tmp_path / "pairs.sqlite", name) for name in ("pairs", "records")}
    failing = stores[which]
    failing.fails_at, failing.fails_after = at, fails_after
    pairs, records = stores["pairs"], stores["records"]
    with pytest.raises(StoreError):
        run(PairBuilder(pairs, records, tasks, TaskReader()))
    there = set(pairs.distinct("pair_id"))
    recorded = [record for record in records.query({}) if record["pair_id"]]
    assert len(recorded) < 25
    assert {record["pair_id"] for record in recorded} <= there  # a record never names a pair that is not there
    assert run(PairBuilder(pairs, records, tasks, TaskReader()))["new"] == 25 - len(recorded)
    assert (pairs.count(), records.count()) == (25, 25)
    assert {record["pair_id"] for record in records.query({})} == set(pairs.distinct("pair_id"))
    assert run(PairBuilder(pairs, records, tasks, TaskReader())) == {}


@pytest.mark.parametrize("at", [1, 2])
def test_a_failure_while_a_pair_is_replaced_is_made_good(tasks, tmp_path, at):
    fill(tasks, 1)
    pairs, records = Failing(tmp_path / "pairs.sqlite", "pairs"), MemoryStore()
    run(PairBuilder(pairs, records, tasks, TaskReader()))
    (old,) = pairs.distinct("pair_id")
    again = job_document(vasp_output(build_salt(5.7), build_salt(5.6)), "v-000", 5, hosts=["f-0"], index=2)
    tasks.update([again], key=["uuid", "index"])
    pairs.fails_at = at  # 1: the new pair, 2: the mark on the old one
    with pytest.raises(StoreError):
        run(PairBuilder(pairs, records, tasks, TaskReader()))
    assert run(PairBuilder(pairs, records, tasks, TaskReader())) == {"replaced": 1}
    (new,) = set(pairs.distinct("pair_id")) - {old}
    assert pairs.query_one({"pair_id": old})["superseded_by"] == new
    assert pairs.query_one({"pair_id": new})["superseded_by"] is None
    assert records.query_one({})["pair_id"] == new


def test_outcomes_and_their_jobs_are_counted_once(settings, tasks, make_prediction, make_outcome):
    prediction, outcome = make_prediction(), make_outcome().model_copy(update={"job_uuids": ["v-000"]})
    control = make_outcome(kind=StartKind.CONTROL).model_copy(update={"job_uuids": ["v-001"]})
    failed = make_outcome("other", 4.2, ionic=None).model_copy(update={"job_uuids": ["v-002"]})
    fill(tasks, 4)
    with open_stores(settings) as stores, open_pair_stores(settings) as targets:
        save_predictions(stores.predictions, [prediction])
        save_outcomes(stores.outcomes, [outcome, control, failed])
        more = {"predictions": stores.predictions, "outcomes": stores.outcomes}
        assert run(PairBuilder(targets.pairs, targets.records, tasks, TaskReader(), **more)) == {"new": 3, "failed": 1}
        found = {pair.origin_id: pair for pair in iter_pairs(targets.pairs)}
        assert set(found) == {outcome.outcome_id, control.outcome_id, "v-003"}
        assert {pair.source for pair in found.values()} == {"screen", "tasks"}
        before = {raw["origin_id"]: raw["last_updated"] for raw in targets.records.query({})}
        assert run(PairBuilder(targets.pairs, targets.records, tasks, TaskReader(), **more)) == {}
        # a failed outcome that is retried
        again = make_outcome("other", 4.2).model_copy(update={"job_uuids": ["v-002"]})
        save_predictions(stores.predictions, [make_prediction("other", 4.2)])
        save_outcomes(stores.outcomes, [again], replace_failed=True)
        assert run(PairBuilder(targets.pairs, targets.records, tasks, TaskReader(), **more)) == {"new": 1}
        after = {raw["origin_id"]: raw["last_updated"] for raw in targets.records.query({})}
    assert {id for id, time in after.items() if before[id] != time} == {failed.outcome_id}


def test_an_outcome_whose_prediction_is_missing_is_tried_again_when_it_is_there(
    settings, make_prediction, make_outcome
):
    with open_stores(settings) as stores, open_pair_stores(settings) as targets:
        save_outcomes(stores.outcomes, [make_outcome()])
        more = {"predictions": stores.predictions, "outcomes": stores.outcomes}
        assert run(PairBuilder(targets.pairs, targets.records, **more)) == {LeftOut.START_UNKNOWN: 1}
        assert run(PairBuilder(targets.pairs, targets.records, **more)) == {}
        save_predictions(stores.predictions, [make_prediction()])
        assert run(PairBuilder(targets.pairs, targets.records, **more)) == {"new": 1}


def test_a_builder_needs_something_to_build_from():
    with pytest.raises(ConfigError, match="`tasks`, `outcomes` or both"):
        PairBuilder(MemoryStore(), MemoryStore())
    with pytest.raises(ConfigError, match="TaskReader"):
        PairBuilder(MemoryStore(), MemoryStore(), tasks=MemoryStore())


def test_a_builder_is_json(tmp_path):
    builder = PairBuilder(
        SQLiteStore(tmp_path / "p.sqlite", "pairs"),
        SQLiteStore(tmp_path / "p.sqlite", "records"),
        tasks=SQLiteStore(tmp_path / "t.sqlite", "outputs", key="uuid"),
        reader=TaskReader(),
        source="mine",
        chunk_size=7,
    )
    again = json.loads(json.dumps(builder, cls=MontyEncoder), cls=MontyDecoder)
    assert isinstance(again, PairBuilder)
    assert (again.pairs, again.tasks, again.predictions) == (builder.pairs, builder.tasks, None)
    assert (again.reader, again.source, again.chunk_size, again.pairs.key) == (TaskReader(), "mine", 7, "pair_id")


@pytest.mark.slow
def test_mrun_runs_the_builder(tasks, tmp_path):
    fill(tasks, 12)
    tasks.close()
    path = tmp_path / "pairs.sqlite"
    builder = PairBuilder(
        SQLiteStore(path, "pairs"),
        SQLiteStore(path, "pairs_records"),
        tasks=SQLiteStore(tmp_path / "jobs.sqlite", "outputs", key="uuid"),
        reader=TaskReader(),
        chunk_size=5,
    )
    spec = tmp_path / "builder.json"
    spec.write_text(json.dumps(builder, cls=MontyEncoder))
    times = []
    for n_processes in ("2", "1"):
        code = "from maggma.cli import run; run()"
        command = [sys.executable, "-W", "ignore", "-c", code, "-n", n_processes, str(spec)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=environment)
        assert done.returncode == 0, done.stderr
        times.append(read_times(path))
        assert len(times[-1]) == 24, done.stderr
    assert times[0] == times[1]


def read_times(path: Path) -> dict[str, Any]:
    found = {}
    for name, key in (("pairs", "pair_id"), ("pairs_records", "origin_id")):
        with SQLiteStore(path, name, key=key) as store:
            found |= {f"{name} {raw[key]}": raw["last_updated"] for raw in store.query({})}
    return found


def test_the_same_on_a_server(database, settings, tasks):
    fill(tasks, 5)
    mongo = settings.model_copy(update={"PAIR_STORE": database})
    with open_pair_stores(mongo) as stores:
        assert (stores.pairs.collection_name, stores.records.collection_name) == ("pairs", "pairs_records")
        assert run(PairBuilder(stores.pairs, stores.records, tasks, TaskReader())) == {"new": 5}
        assert run(PairBuilder(stores.pairs, stores.records, tasks, TaskReader())) == {}
        again = job_document(vasp_output(build_salt(5.7), build_salt(5.6)), "v-000", 5, hosts=["f-0"], index=2)
        tasks.update([again], key=["uuid", "index"])
        assert run(PairBuilder(stores.pairs, stores.records, tasks, TaskReader())) == {"replaced": 1}
        check_replaced(stores)
        indexes = stores.pairs._collection.index_information().values()
        assert {index["key"][0][0] for index in indexes if index.get("unique")} == {"pair_id"}


def check_replaced(stores: PairStores) -> None:
    current = {pair.origin_id: pair for pair in iter_pairs(stores.pairs)}
    assert len(current) == 5
    (old,) = iter_pairs(stores.pairs, {"superseded_by": {"$ne": None}})
    assert (old.origin_id, old.superseded_by) == ("v-000", current["v-000"].pair_id)
    assert current["v-000"].relaxed.volume == pytest.approx(build_salt(5.6).volume)
    assert old.last_updated.tzinfo is not None


def test_an_outcome_of_an_older_release_gets_its_label_from_its_jobs(settings, tasks, make_prediction, make_outcome):
    """Its document does not know of pressure and fields; those of its jobs do."""
    prediction, outcome = make_prediction(), make_outcome().model_copy(update={"job_uuids": ["v-1"]})
    control = make_outcome(kind=StartKind.CONTROL).model_copy(update={"job_uuids": ["v-2"]})
    for uuid, incar in (("v-1", {"PSTRESS": 500}), ("v-2", {"EFIELD": 0.1})):
        output = vasp_output(build_salt(), build_salt(5.62), input__incar={"ISIF": 3} | incar)
        tasks.update([job_document(output, uuid)], key=["uuid", "index"])
    with open_stores(settings) as stores, open_pair_stores(settings) as targets:
        save_predictions(stores.predictions, [prediction])
        for doc in (outcome, control):
            raw = dump_document(doc)
            raw["result"] |= {"code": "VASP", "is_dft": True, "functional": "PBE"}
            for name in ("conditions", "unnamed"):
                del raw["result"][name]
            stores.outcomes.update([raw])
        more = {"predictions": stores.predictions, "outcomes": stores.outcomes}
        counts = run(PairBuilder(targets.pairs, targets.records, tasks, TaskReader(), **more))
        assert counts == {"new": 1, "conditions": 1}
        assert [pair.functional for pair in iter_pairs(targets.pairs)] == ["PBE at 50 GPa"]
