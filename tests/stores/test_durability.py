"""What SQLiteStore has acknowledged survives kill -9, and processes that write at once do not harm each other."""

from __future__ import annotations

import random
import signal
import subprocess
import sys

import pytest

from e3relax_flows.stores.sqlite import SQLiteStore

# writes batches of three and says after each that it was acknowledged
WRITER = """
import sys
from e3relax_flows.stores.sqlite import SQLiteStore
path, tag = sys.argv[1:]
with SQLiteStore(path, "docs", key="uuid") as store:
    for batch in range(100_000):
        store.update([{"uuid": f"{tag}-{batch}-{n}", "batch": f"{tag}-{batch}", "body": "x" * 2000} for n in range(3)])
        print(batch, flush=True)
"""

# upserts its own documents and those of everybody
SHARER = """
import sys
from e3relax_flows.stores.sqlite import SQLiteStore
path, tag = sys.argv[1:]
print("ready", flush=True)
sys.stdin.readline()
with SQLiteStore(path, "docs", key=["uuid", "index"]) as store:
    for n in range(60):
        store.update([{"uuid": f"{tag}-{n}", "index": 0}, {"uuid": "shared", "index": n, "by": tag}])
        n_new = store.write_once({"uuid": "once", "index": n, "by": tag})
        print(n_new, flush=True)
"""


def start(script, *arguments):
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_nothing_acknowledged_is_lost_when_the_writer_is_killed(tmp_path):
    path = tmp_path / "x.sqlite"
    chance = random.Random(7)
    acknowledged: set[str] = set()
    for life in range(4):
        child = start(WRITER, path, life)
        for _ in range(chance.randint(3, 60)):
            acknowledged.add(f"{life}-{int(child.stdout.readline())}")
        child.send_signal(signal.SIGKILL)
        with child:  # `communicate` misses what `readline` has buffered
            rest = child.stdout.read()
        acknowledged.update(f"{life}-{int(line)}" for line in rest.split())
        with SQLiteStore(path, "docs", key="uuid") as store:
            batches = {key["batch"]: len(docs) for key, docs in store.groupby("batch", properties=["uuid"])}
        assert acknowledged <= set(batches)
        assert set(batches.values()) == {3}
        # at most the one batch that was stored but not yet said to be, in each life
        assert len(batches) <= len(acknowledged) + life + 1
    assert len(acknowledged) >= 12


@pytest.mark.parametrize("n_processes", [2])
def test_processes_that_write_at_once_lose_and_double_nothing(tmp_path, n_processes):
    path = tmp_path / "x.sqlite"
    children = [start(SHARER, path, f"p{number}") for number in range(n_processes)]
    for child in children:
        assert child.stdout.readline() == "ready\n"
    for child in children:  # now, together: the file does not exist yet
        child.stdin.write("go\n")
        child.stdin.flush()
    outputs = [child.communicate(timeout=120)[0].split() for child in children]
    assert [child.returncode for child in children] == [0] * n_processes
    assert [len(output) for output in outputs] == [60] * n_processes
    assert sum(int(word) for output in outputs for word in output) == 60
    with SQLiteStore(path, "docs", key="uuid") as store:
        assert store.count() == 60 * n_processes + 60 + 60
        shared = list(store.query({"uuid": "shared"}, sort={"index": 1}))
        assert [doc["index"] for doc in shared] == list(range(60))
        assert {doc["by"] for doc in store.query({"uuid": "once"})} <= {f"p{number}" for number in range(n_processes)}
