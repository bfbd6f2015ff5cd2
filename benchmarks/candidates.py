"""Time and memory of a list of candidates: `python benchmarks/candidates.py --n 1000 10000 100000`.

Made-up perovskites, five per composition: one, the same again, the same with its origin moved, one that is distorted
and one that is swollen, so that three of five are to be kept; the count is checked. Each line is a process of its own.

take       read, identify, write to disk, s
compare    StructureMatcher within compositions, s
give       read the kept ones back in order, s
memory     peak of the process beyond what it had after its imports, MB
disk       of the list, MB

pymatgen's own `StructureMatcher.group_structures` on a list in memory, with the same tolerances, does the same up to
`--rival-limit`.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice, pairwise, permutations
from pathlib import Path

from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Element, Lattice, Structure
from rich.console import Console
from rich.table import Table

from e3relax_flows import CandidateList, ReadItem

COLUMNS = ("method", "candidates", "kept", "take (s)", "compare (s)", "give (s)", "ms each", "memory (MB)", "disk (MB)")
ELEMENTS = [element.symbol for element in Element if 2 < element.Z < 80 and not element.is_noble_gas]
SITES = [[0.5, 0.5, 0.5], [0, 0, 0], [0.5, 0, 0], [0, 0.5, 0], [0, 0, 0.5]]
PER_COMPOSITION, KEPT = 5, 3
TOLERANCES = {"ltol": 0.05, "stol": 0.05, "angle_tol": 2, "scale": False, "primitive_cell": False}  # as in a list


def make_items(n: int) -> Iterator[ReadItem]:
    """`n` perovskites, those of one composition far apart in the stream."""
    n_compositions = n // PER_COMPOSITION
    for guise in range(PER_COMPOSITION):
        for number, (a, b, x) in enumerate(islice(permutations(ELEMENTS, 3), n_compositions)):
            yield ReadItem(
                f"{a}{b}{x}3-{guise}", make_guise([a, b, x, x, x], guise, 4.0 + 0.001 * (number % 100)), None
            )


def make_guise(species: list[str], guise: int, length: float) -> Structure:
    structure = Structure(Lattice.cubic(length * (1.1 if guise == 4 else 1)), species, SITES)
    if guise == 2:
        structure.translate_sites(range(5), [0.25, 0.125, 0])
    elif guise == 3:
        structure.translate_sites([1], [0, 0, 0.1])
    return structure


def take_on_disk(n: int) -> dict[str, float]:
    before = measure_memory()
    with tempfile.TemporaryDirectory() as folder, CandidateList(Path(folder)) as candidates:
        times = [time.perf_counter()]
        candidates.add(make_items(n))
        times.append(time.perf_counter())
        candidates.deduplicate()
        times.append(time.perf_counter())
        kept = sum(1 for _ in candidates.iterate())
        times.append(time.perf_counter())
        disk = sum(path.stat().st_size for path in Path(folder).rglob("*.sqlite"))
    take, compare, give = (after - start for start, after in pairwise(times))
    return {
        "kept": kept,
        "take": take,
        "compare": compare,
        "give": give,
        "memory": measure_memory() - before,
        "disk": disk / 1e6,
    }


def group_in_memory(n: int) -> dict[str, float]:
    before, start = measure_memory(), time.perf_counter()
    structures = [item.structure for item in make_items(n) if item.structure is not None]
    taken = time.perf_counter()
    groups = StructureMatcher(**TOLERANCES).group_structures(structures)
    compare = time.perf_counter() - taken
    return {
        "kept": len(groups),
        "take": taken - start,
        "compare": compare,
        "give": 0.0,
        "memory": measure_memory() - before,
    }


METHODS = {"on disk": take_on_disk, "pymatgen, in memory": group_in_memory}


def measure_memory() -> float:
    """Peak so far, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def run_apart(method: str, n: int) -> dict[str, float]:
    command = [sys.executable, "-W", "ignore", __file__, "--n", str(n), "--only", method]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, nargs="+", default=[1000, 10000], help="numbers of candidates, multiples of 5")
    parser.add_argument("--rival-limit", type=int, default=1000, help="most candidates that are grouped in memory")
    parser.add_argument("--only", choices=METHODS, help="one method in this process, as JSON")
    options = parser.parse_args()
    if options.only:
        print(json.dumps(METHODS[options.only](options.n[0])))
        return
    table = Table(*COLUMNS, title="Lists of candidates, perovskites of 5 atoms")
    for n in options.n:
        for method in METHODS:
            if method != "on disk" and n > options.rival_limit:
                continue
            found = run_apart(method, n)
            if found["kept"] != n // PER_COMPOSITION * KEPT:
                raise RuntimeError(f"{method}: {found['kept']} of {n} are kept, not {n // PER_COMPOSITION * KEPT}")
            total = found["take"] + found["compare"] + found["give"]
            times = [f"{found[name]:.1f}" for name in ("take", "compare", "give")]
            disk = f"{found['disk']:.1f}" if "disk" in found else "-"
            row = [
                method,
                str(n),
                f"{found['kept']:.0f}",
                *times,
                f"{1e3 * total / n:.1f}",
                f"{found['memory']:.0f}",
                disk,
            ]
            table.add_row(*row)
    Console(width=130).print(table)


if __name__ == "__main__":
    main()
