"""Pairs from 10,000 task documents: time and memory of the first build, of a second one, and of one with few news.

The documents are as large as those of VASP runs (50 kB, most of it electronic steps and trajectories that
reading does not need), two relaxations in each flow. Stores are the embedded ones, in files.

    python benchmarks/pairs.py --n 10000
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from maggma.utils import grouper
from pymatgen.core import Lattice, Structure
from rich.console import Console
from rich.table import Table

from e3relax_flows import PairBuilder, SQLiteStore, TaskReader

COLUMNS = ("build", "documents", "pairs", "seconds", "CPU s", "CPU ms per document", "memory MB", "growth MB")
ELEMENTS = ("Li", "Mg", "Al", "Ti", "Fe", "Zn", "O", "S", "Cl", "N")
N_FRAMES, N_CYCLES = 6, 12
INSERT_AT_ONCE = 200


def make_structures(seed: int, n_sites: int) -> list[Structure]:
    """A start, a middle and an end of a relaxation with `n_sites` sites in a cell without symmetry."""
    random = np.random.default_rng(seed)
    lattice = Lattice((4.0 * n_sites ** (1 / 3)) * (0.5 * np.eye(3) + 0.03 * random.normal(size=(3, 3))))
    side = int(np.ceil(n_sites ** (1 / 3)))
    grid = np.array(np.unravel_index(np.arange(n_sites), (side, side, side))).T / side
    species = sorted(random.choice(ELEMENTS, n_sites))
    fractions = grid + 0.02 * random.normal(size=(n_sites, 3))
    ends = [fractions + scale * random.normal(size=(n_sites, 3)) for scale in (0, 0.01, 0.011)]
    return [
        Structure(lattice.scale(lattice.volume * factor), species, positions)
        for factor, positions in zip((1.0, 0.95, 0.949), ends, strict=True)
    ]


def make_output(start: Structure, end: Structure) -> dict[str, Any]:
    """A task document of VASP with all that makes real ones large."""
    energies = {"e_fr_energy": -60.123456, "e_wo_entrp": -60.123456, "e_0_energy": -60.123456, "alphaZ": 12.5}
    frame = {
        "electronic_steps": [dict(energies) for _ in range(N_CYCLES)],
        "structure": end.as_dict(),
        "forces": [[0.001, 0.002, 0.003]] * len(end),
        "stress": [[0.1, 0.0, 0.0]] * 3,
        **energies,
    }
    settings = {f"SETTING_{number}": number for number in range(200)} | {"ISIF": 3, "IBRION": 2, "NSW": 99}
    return {
        "@module": "emmet.core.tasks",
        "@class": "TaskDoc",
        "formula_pretty": start.composition.reduced_formula,
        "nsites": len(start),
        "task_type": "Structure Optimization",
        "run_type": "PBE",
        "state": "successful",
        "vasp_version": "6.4.2",
        "dir_name": "host:/scratch/run",
        "structure": end.as_dict(),
        "output": {"structure": end.as_dict(), "energy": -60.123456},
        "orig_inputs": {"structure": start.as_dict(), "incar": settings},
        "input": {"structure": start.as_dict(), "parameters": settings, "incar": settings},
        "run_stats": {"overall": {"elapsed_time": 100.0}},
        "custodian": [{"corrections": [], "job": settings}],
        "calcs_reversed": [
            {
                "vasp_version": "6.4.2",
                "input": {"structure": start.as_dict(), "parameters": settings},
                "output": {"ionic_steps": [frame] * N_FRAMES, "structure": end.as_dict()},
            }
        ],
    }


def make_documents(first: int, n: int, n_sites: int) -> Iterator[dict[str, Any]]:
    """Job documents of `n` / 2 flows."""
    for flow in range(first // 2, (first + n) // 2):
        raw, middle, relaxed = make_structures(flow, n_sites)
        for step, (start, end) in enumerate(((raw, middle), (middle, relaxed))):
            yield {
                "uuid": f"job-{flow}-{step}",
                "index": 1,
                "output": make_output(start, end),
                "completed_at": f"2025-11-02T10:00:{step:02d}.123456",
                "metadata": {},
                "hosts": [f"flow-{flow}", "campaign"],
                "name": f"relax {step + 1}",
            }


def measure_memory() -> float:
    """Resident memory now, MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1]) if sys.platform == "linux" else 0
    return pages * resource.getpagesize() / 1e6


class PeakMemory:
    """The largest resident memory while a block runs, looked at 20 times a second."""

    def __enter__(self) -> PeakMemory:
        self.before = self.peak = measure_memory()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.05):
            self.peak = max(self.peak, measure_memory())


def build(folder: Path) -> tuple[int, float, float, PeakMemory]:
    """Run a builder; pairs written, seconds by the clock and of this process, memory."""
    builder = PairBuilder(
        SQLiteStore(folder / "pairs.sqlite", "pairs"),
        SQLiteStore(folder / "pairs.sqlite", "records"),
        tasks=SQLiteStore(folder / "jobs.sqlite", "outputs", key="uuid"),
        reader=TaskReader(),
    )
    start, cpu = time.perf_counter(), time.process_time()
    with PeakMemory() as memory:
        builder.connect()
        for chunk in grouper(builder.get_items(), builder.chunk_size):
            builder.update_targets([builder.process_item(item) for item in chunk])
        builder.finalize()
    return builder.counts["new"], time.perf_counter() - start, time.process_time() - cpu, memory


def fill(folder: Path, first: int, n: int, n_sites: int) -> None:
    with SQLiteStore(folder / "jobs.sqlite", "outputs", key="uuid") as store:
        for chunk in grouper(make_documents(first, n, n_sites), INSERT_AT_ONCE):
            store.update(chunk, key=["uuid", "index"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, nargs="+", default=[1000, 10000], help="numbers of documents")
    parser.add_argument("--sites", type=int, default=8, help="sites in a cell")
    parser.add_argument("--news", type=int, default=100, help="documents that come between the builds")
    options = parser.parse_args()
    table = Table(*COLUMNS, title=f"Pairs from VASP task documents, {options.sites} sites, embedded stores")
    with tempfile.TemporaryDirectory() as folder:  # loads what is loaded once
        fill(Path(folder), 0, 2, options.sites)
        build(Path(folder))
    for n in options.n:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder)
            fill(path, 0, n, options.sites)
            size = (path / "jobs.sqlite").stat().st_size / n / 1e3
            print(f"{n} documents of {size:.0f} kB", file=sys.stderr)
            for name, more in (("first", 0), ("second", 0), (f"{options.news} new", options.news)):
                fill(path, n, more, options.sites)
                n_pairs, seconds, cpu, memory = build(path)
                per_document = 1e3 * cpu / (n + more)
                numbers = (f"{seconds:.1f}", f"{cpu:.1f}", f"{per_document:.1f}", f"{memory.peak:.0f}")
                table.add_row(name, str(n + more), str(n_pairs), *numbers, f"{memory.peak - memory.before:.0f}")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
