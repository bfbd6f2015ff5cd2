"""Relaxations by a potential one after the other and together, side by side: `python benchmarks/potential_batches.py`.

The same structures through the path that a chunk of a screen takes, `relax_structures`, by ASE (batch=serial) and by
TorchSim (batch=torchsim; Python 3.12, `pip install 'e3relax-flows[torchsim]'`), with each optimiser. Each row is from a
process of its own, one after the other; loading of the weights, which a chunk pays once, is timed apart.

per hour   structures by the seconds of the processor that their relaxations took; by wall time on a GPU
memory     largest resident set of the process; on a GPU also the largest that torch allocated
difference largest relative difference of a relaxed volume from that of the first row, where both converged
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from pymatgen.core import Structure
from throughput_parts import build_structures, format_table, read_cpu

from e3relax_flows import get_engine
from e3relax_flows.core.errors import EngineError
from e3relax_flows.engines.chunks import relax_structures
from e3relax_flows.train.dataset import load_pairs

ROWS = ("serial BFGS", "serial LBFGS", "torchsim LBFGS", "torchsim FIRE")
HEAD = ("", "per hour", "CPU s each", "wall s each", "evaluations each", "converged", "difference", "peak MB", "load s")


def read_structures(options: argparse.Namespace) -> list[Structure]:
    """Initial structures of a file of pairs, or crystals of known prototypes, of at most so many atoms."""
    if options.pairs is None:
        found = build_structures(10 * options.n)
    else:
        pairs: Any = load_pairs([options.pairs])
        found = [Structure(pair.initial_lattice, pair.numbers, pair.initial_fractions) for pair in pairs]
    small = [structure for structure in found if 2 <= len(structure) <= options.atoms]
    return small[:: max(1, len(small) // options.n)][: options.n]


def measure(row: str, options: argparse.Namespace) -> dict[str, Any]:
    """Relax all in this process."""
    torch.set_num_threads(1)
    batch, optimizer = row.split()
    engine = get_engine(
        "mlip", potential="SevenNet", checkpoint=options.checkpoint, batch=batch, optimizer=optimizer, fmax=0.05,
        device=options.device, time_limit_s=None,
    )  # fmt: skip
    structures = read_structures(options)
    first, cpu_first = time.perf_counter(), time.process_time()
    maker: Any = engine.maker
    if batch == "torchsim":
        maker._load()
    else:
        maker.calculator  # noqa: B018  loads it
    load = time.process_time() - cpu_first
    start, cpu = time.perf_counter(), time.process_time()
    results: list[Any] = [None] * len(structures)
    for place, document in relax_structures(engine, structures):
        if isinstance(document, Exception):
            print(f"{row}: {structures[place].formula}: {document}", file=sys.stderr)
        else:
            results[place] = engine.read([document])
    cpu, wall = time.process_time() - cpu, time.perf_counter() - start
    known = [result for result in results if result is not None]
    return {
        "n": len(structures), "atoms": sum(map(len, structures)) / len(structures), "cpu": cpu, "wall": wall,
        "load": load, "first": start - first, "failed": len(results) - len(known),
        "evaluations": sum(result.n_ionic_steps for result in known) / max(1, len(known)),
        "volumes": [None if each is None or not each.converged else each.relaxed.volume for each in results],
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "gpu": torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else None,
    }  # fmt: skip


def run_apart(row: str) -> dict[str, Any] | None:
    """The same arguments in a process of its own; None where it cannot run here."""
    command = [sys.executable, "-W", "ignore", __file__, *sys.argv[1:], "--only", row]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"{row}: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
        return None
    print(done.stderr, end="", file=sys.stderr)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def format_row(row: str, found: dict[str, Any], reference: dict[str, Any], on_gpu: bool) -> list[str]:
    """Figures of a row as text."""
    both = [(a, b) for a, b in zip(found["volumes"], reference["volumes"], strict=True) if a and b]
    difference = max((abs(a / b - 1) for a, b in both), default=float("nan"))
    seconds = found["wall"] if on_gpu else found["cpu"]
    memory = f"{found['memory']:.0f}" + (f" + {found['gpu']:.0f} GPU" if found["gpu"] else "")
    return [
        row, f"{3600 * found['n'] / seconds:.0f}", f"{found['cpu'] / found['n']:.2f}",
        f"{found['wall'] / found['n']:.2f}",
        f"{found['evaluations']:.1f}", f"{sum(map(bool, found['volumes']))}/{found['n']}", f"{difference:.1e}", memory,
        f"{found['load']:.1f}",
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=10, help="number of structures")
    parser.add_argument("--atoms", type=int, default=12, help="most atoms of one")
    parser.add_argument("--pairs", type=Path, help="initial structures of this file of pairs")
    parser.add_argument("--checkpoint", default="7net-0")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--only", choices=ROWS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        try:
            print(json.dumps(measure(options.only, options)))
        except EngineError as error:
            sys.exit(str(error))
        return
    found = {row: figures for row in options.rows if (figures := run_apart(row)) is not None}
    if not found:
        sys.exit("nothing could be measured")
    reference = next(iter(found.values()))
    place = torch.cuda.get_device_name(options.device) if options.device.startswith("cuda") else "no GPU"
    print(
        f"{reference['n']} structures of {reference['atoms']:.1f} atoms on average, SevenNet {options.checkpoint}, "
        f"fmax 0.05 eV/Å, {read_cpu()}, {place}, one thread\n"
    )
    rows = [format_row(row, figures, reference, options.device != "cpu") for row, figures in found.items()]
    print(format_table(HEAD, rows))


if __name__ == "__main__":
    main()
