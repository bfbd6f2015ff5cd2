"""What the workflow itself costs, against what a user writes today: `python benchmarks/workflow_overhead.py`.

Today: a loop that makes one Flow per structure, atomate2's ForceFieldRelaxMaker followed by its DoubleRelaxMaker,
converts it and adds it to the launchpad, 50 at a time. Ours: `submit_screen`, with a launch per
candidate, and in chunks, as candidates of a potential are relaxed. Everything that
computes is replaced by a job that does nothing, the same on both sides: the force field, the two relaxations of (the
real) DoubleRelaxMaker, and our predictor. Both use the same server with MongoDB's protocol, started here, for
launchpad and job store; ours has its own documents in the embedded store.

submit   from structures in memory to a launchpad that workers can pull from; wall and CPU time of the client
memory   largest resident set of that process, and how much of it came after the imports
drain    one `rlaunch rapidfire`, in process, until nothing is left, of `--sample` candidates; wall time with the
         server on the same machine, and CPU time of the worker
written  documents and bytes (BSON, or the text of SQLite) that are there afterwards

Each figure is from a process of its own. Drains of all are extrapolated from the sample, and that is said.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import bson
from atomate2.forcefields.jobs import ForceFieldRelaxMaker
from atomate2.vasp.flows.core import DoubleRelaxMaker
from jobflow import Flow, Maker, job
from jobflow.managers.fireworks import flow_to_workflow
from pymatgen.core import Lattice, Structure
from rich.console import Console
from rich.table import Table
from soak_parts import FireWorksPlace

from e3relax_flows import (
    E3RelaxSettings,
    Engine,
    ReadItem,
    RelaxationResult,
    ScreenMaker,
    isolate_stores,
    load_settings,
    resolve_model,
    submit_screen,
)
from e3relax_flows.testing import TablePredictor

BATCH = 50
METHODS = ("today", "ours", "chunks")


def answer(structure: Structure) -> dict[str, Any]:
    """The document of a relaxation that does nothing."""
    return {"structure": structure, "energy": -1.0, "dir_name": "nowhere"}


@dataclass
class NoopForceFieldMaker(ForceFieldRelaxMaker):
    """atomate2's job, but for the force field."""

    name: str = "Force field relax"

    @job
    def make(self, structure: Structure, prev_dir: str | Path | None = None) -> dict[str, Any]:  # noqa: ARG002
        """Give the structure back."""
        return answer(structure)


@dataclass
class NoopRelaxMaker(Maker):
    """In the place of VASP's relaxations."""

    name: str = "relax"

    @job
    def make(self, structure: Structure, prev_dir: str | Path | None = None) -> dict[str, Any]:  # noqa: ARG002
        """Give the structure back."""
        return answer(structure)


def make_double() -> DoubleRelaxMaker:
    """atomate2's flow of two relaxations that do nothing."""
    return DoubleRelaxMaker(relax_maker1=NoopRelaxMaker(), relax_maker2=NoopRelaxMaker())


@dataclass
class NoopEngine(Engine):
    """An engine of these."""

    name: str = "noop"
    maker: Maker = field(default_factory=make_double)

    is_dft: ClassVar[bool] = False
    code: ClassVar[str] = "none"

    def read(self, documents: list[Any]) -> RelaxationResult:
        """The structure of the last one."""
        structure = documents[-1]["structure"]
        if not isinstance(structure, Structure):
            structure = Structure.from_dict(structure)
        return RelaxationResult(
            code=self.code, is_dft=False, initial=structure, relaxed=structure, energy=-1.0,
            n_ionic_steps=1, converged=True,
        )  # fmt: skip


@dataclass
class NoopPotentialEngine(NoopEngine):
    """One whose candidates are relaxed many in one launch, as those of potentials are."""

    name: str = "noop potential"
    maker: Maker = field(default_factory=lambda: NoopForceFieldMaker(force_field_name="CHGNet"))

    relaxes_chunks: ClassVar[bool] = True


def make_structures(n: int) -> Iterator[Structure]:
    """Cells of 16 atoms, no two alike, made when they are asked for."""
    corners = [[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
    coords = [[(x + i) / 2, (y + j) / 2, z] for i in range(2) for j in range(2) for x, y, z in corners]
    for number in range(n):
        yield Structure(Lattice.tetragonal(7.4 + 0.4 * number / n, 3.7), ["Cu", "Au", "Au", "Au"] * 4, coords)


def submit_as_today(n: int, pad: Any) -> None:
    """One flow per structure."""
    workflows: list[Any] = []
    for structure in make_structures(n):
        first = NoopForceFieldMaker(force_field_name="CHGNet").make(structure)
        second = make_double().make(first.output["structure"])
        workflows.append(flow_to_workflow(Flow([first, second])))
        if len(workflows) == BATCH:
            pad.bulk_add_wfs(workflows)
            workflows = []
    if workflows:
        pad.bulk_add_wfs(workflows)


def submit_ours(n: int, engine: Engine, settings: E3RelaxSettings) -> None:
    """A screen."""
    maker = ScreenMaker(engine=engine, control=0, deduplicate=False)
    items = (ReadItem(f"c{number}", structure, None) for number, structure in enumerate(make_structures(n)))
    submit_screen(maker, items, "fireworks", settings)


def replace_predictor() -> None:
    """The default model predicts in this process what it is given."""
    from e3relax_flows import Predictor  # torch, which a submission does without

    predictor = TablePredictor(resolve_model("default").model_id, {})
    Predictor.load = lambda *_, **__: predictor


def measure(method: str, n: int, drains: bool) -> dict[str, Any]:
    """Submit, and drain if asked to, in this process."""
    from fireworks import FWorker, LaunchPad
    from fireworks.core.rocket_launcher import rapidfire

    if drains:
        replace_predictor()
    with closing((pad := LaunchPad.auto_load()).connection):
        pad.reset("", require_password=False, max_reset_wo_password=10**9)
        with tempfile.TemporaryDirectory() as folder:  # what is imported late is no part of the submission
            submit_ours(1, NoopEngine(), isolate_stores(Path(folder)))
        pad.reset("", require_password=False, max_reset_wo_password=10**9)
        pad.connection["soak"].drop_collection("outputs")
        before = read_memory()
        start, cpu = time.perf_counter(), time.process_time()
        engines = {"ours": NoopEngine, "chunks": NoopPotentialEngine}
        if method in engines:
            submit_ours(n, engines[method](), load_settings())
        else:
            submit_as_today(n, pad)
        figures = {
            "submit": time.perf_counter() - start, "submit_cpu": time.process_time() - cpu,
            "memory": read_memory(), "grown": read_memory() - before,
            "submitted": pad.fireworks.count_documents({}),
        }  # fmt: skip
        if drains:
            # on both sides; jobflow makes none
            pad.connection["soak"]["outputs"].create_index("uuid", background=True)
            start, cpu = time.perf_counter(), time.process_time()
            rapidfire(pad, FWorker(), strm_lvl="CRITICAL")
            figures |= {"drain": time.perf_counter() - start, "drain_cpu": time.process_time() - cpu}
            ended = pad.fireworks.count_documents({"state": "COMPLETED"})
            figures["fireworks"] = pad.fireworks.count_documents({})
            if ended != figures["fireworks"]:
                raise RuntimeError(f"{figures['fireworks'] - ended} fireworks of {method} are not completed")
        figures["documents"], figures["bytes"] = count_written(pad)
    return figures


def count_written(pad: Any) -> tuple[int, int]:
    """Documents, and their bytes, of the server and of the embedded store."""
    sizes = [
        len(bson.encode(document))
        for name in pad.connection["soak"].list_collection_names()
        for document in pad.connection["soak"][name].find({})
    ]
    import sqlite3

    file = load_settings().DATA_DIR / "e3relax.sqlite"
    if file.exists():
        with closing(sqlite3.connect(file)) as connection:
            tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
            for (table,) in tables:
                sizes += [size for (size,) in connection.execute(f'SELECT length(document) FROM "{table}"')]
    return len(sizes), sum(sizes)


def read_memory() -> float:
    """Largest resident set so far, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def run_apart(method: str, n: int, drains: bool) -> dict[str, Any]:
    """Measure in a process of its own, with stores of its own."""
    with tempfile.TemporaryDirectory(prefix="e3relax_overhead_") as folder:
        environment = {**os.environ, "E3RELAX_DATA_DIR": folder}
        command = [
            sys.executable,
            "-W",
            "ignore",
            __file__,
            "--only",
            method,
            "--n",
            str(n),
            "--sample",
            str(int(drains)),
        ]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)
    print(f"{method}, {n} candidates{', drained' if drains else ''}: {done.stdout.splitlines()[-1]}", file=sys.stderr)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def build_table(numbers: list[int], sample: int) -> Table:
    """All of it, side by side."""
    table = Table("per candidate unless it says otherwise", *METHODS, "today / ours", title="Cost of the workflow")
    drained = {method: run_apart(method, sample, True) for method in METHODS}
    for n in numbers:
        found = {method: run_apart(method, n, False) for method in METHODS}
        _add(table, f"{n} candidates: submit, ms", found, "submit", 1e3 / n)
        _add(table, f"{n} candidates: submit, ms of CPU", found, "submit_cpu", 1e3 / n)
        _add(table, f"{n} candidates: peak memory, MB in all", found, "memory", 1)
        _add(table, f"{n} candidates: memory beyond imports, MB in all", found, "grown", 1)
        _add(table, f"{n} candidates: documents submitted", found, "documents", 1 / n)
        _add(table, f"{n} candidates: bytes submitted", found, "bytes", 1 / n)
    _add(table, f"drain of {sample}, ms", drained, "drain", 1e3 / sample)
    _add(table, f"drain of {sample}, ms of CPU", drained, "drain_cpu", 1e3 / sample)
    _add(table, f"fireworks, drained {sample}", drained, "fireworks", 1 / sample)
    _add(table, f"documents, drained {sample}", drained, "documents", 1 / sample)
    _add(table, f"bytes, drained {sample}", drained, "bytes", 1 / sample)
    for n in numbers:
        hours = {method: {"drain": drained[method]["drain"] / sample * n / 3600} for method in METHODS}
        _add(table, f"{n} candidates: drain in all, hours (extrapolated)", hours, "drain", 1)
    return table


def _add(table: Table, words: str, found: dict[str, dict[str, Any]], name: str, scale: float) -> None:
    today, *ours = (found[method][name] * scale for method in METHODS)
    ratios = " / ".join(f"{today / each:.2f}" if each else "-" for each in ours)
    table.add_row(words, f"{today:.4g}", *(f"{each:.4g}" for each in ours), ratios)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, nargs="+", default=[1000, 10000], help="numbers of candidates")
    parser.add_argument("--sample", type=int, default=100, help="candidates that are drained")
    parser.add_argument("--only", choices=METHODS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        print(json.dumps(measure(options.only, options.n[0], bool(options.sample))))
        return
    place = FireWorksPlace(Path(tempfile.mkdtemp(prefix="e3relax_overhead_")))
    place.prepare()
    place.start_server()
    try:
        Console(width=120).print(build_table(options.n, options.sample))
    finally:
        place.stop()


if __name__ == "__main__":
    main()
