"""Time the embedded stores side by side: `python benchmarks/stores.py --n 1000 10000`.

Documents of about 5 kB with the key `uuid`. Each figure is wall time on this machine, with the disk it has:

insert     all documents by one `update`, s
get        one document by its key, ms, mean of 50
update     one new document more, ms, mean of 10
scan       a number compared in every document, s

MontyStore is timed where montydb is installed. MemoryStore and MontyStore need time that grows with the square of
the number of documents: above `--slow-limit` they are left out of the insertion and filled directly.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from maggma.core import Store
from maggma.stores import MemoryStore, MontyStore
from rich.console import Console
from rich.table import Table

from e3relax_flows import SQLiteStore

COLUMNS = ("store", "documents", "insert (s)", "get (ms)", "update (ms)", "scan (s)", "disk (MB)")


def make_documents(n: int) -> list[dict[str, Any]]:
    body = [{"label": f"site {m}", "abc": [0.123456789 * m, 0.5, 0.25]} for m in range(75)]
    return [{"uuid": str(uuid.UUID(int=number)), "energy": number / n, "sites": body} for number in range(n)]


def measure(function: Callable[[int], Any], repeats: int = 1) -> float:
    """Mean wall time of one call, s."""
    start = time.perf_counter()
    for number in range(repeats):
        function(number)
    return (time.perf_counter() - start) / repeats


def time_store(store: Store, n: int, folder: Path, fill_directly: bool) -> list[str]:
    documents = make_documents(n)
    keys = [document["uuid"] for document in documents]
    with store:
        if fill_directly:
            store._collection.insert_many(documents)
            insert = None
        else:
            insert = measure(lambda _: store.update(documents))
        get = measure(lambda m: store.query_one({"uuid": keys[m * 7919 % n]}), 50)
        update = measure(lambda m: store.update({**documents[0], "uuid": f"new-{m}", "energy": -1, "_id": m}), 10)
        scan = measure(lambda _: list(store.query({"energy": {"$gte": 0.9}})))
        found = len(list(store.query({"energy": {"$gte": 0.9}}, ["uuid"])))
        if abs(found - 0.1 * n) > 2 or store.count() != n + 10:
            raise RuntimeError(f"{store.name}: {found} documents found of {0.1 * n}, {store.count()} in all")
        disk = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    numbers = [f"{1e3 * get:.2f}", f"{1e3 * update:.1f}", f"{scan:.2f}", f"{disk / 1e6:.0f}" if disk else "-"]
    return [type(store).__name__, str(n), "-" if insert is None else f"{insert:.1f}", *numbers]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, nargs="+", default=[1000, 10000], help="numbers of documents")
    parser.add_argument("--slow-limit", type=int, default=500, help="most documents that slow stores insert")
    options = parser.parse_args()
    table = Table(*COLUMNS, title="Embedded stores, documents of 5 kB")
    for n in options.n:
        kinds: list[tuple[Callable[[Path], Store], bool]] = [
            (lambda folder: SQLiteStore(folder / "x.sqlite", key="uuid"), False),
            (lambda _: MemoryStore(key="uuid"), True),
        ]
        if find_spec("montydb"):
            kinds.append((lambda folder: MontyStore("x", database_path=str(folder), key="uuid"), True))
        for make, slow in kinds:
            with tempfile.TemporaryDirectory() as folder:
                store = make(Path(folder))
                print(f"{type(store).__name__} with {n} documents", file=sys.stderr)
                table.add_row(*time_store(store, n, Path(folder), slow and n > options.slow_limit))
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
