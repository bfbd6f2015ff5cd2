"""Time to build graphs against time of the forward pass of the bundled model, side by side.

python benchmarks/graphs.py [--model default] [--repeat 5] [--threads 1]
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from pymatgen.core import Structure

from e3relax_flows.core.modelfolders import find_model
from e3relax_flows.data.prototypes import build_candidates
from e3relax_flows.graphs.batching import pack_crystals
from e3relax_flows.graphs.convert import structure_to_arrays
from e3relax_flows.model.files import load_network


def time_it(function, repeat):
    """Median seconds of `repeat` calls, after one that is not counted."""
    function()
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="default")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    network = load_network(find_model(arguments.model))
    structures: list[Structure] = [structure for _, structure in build_candidates()]
    print("| structures | atoms | edges per atom | graph, ms | forward, ms | graph / forward |")
    print("|---|---|---|---|---|---|")
    for name, batch in {
        "demo candidates": structures,
        "the same, 2x2x2": [structure * (2, 2, 2) for structure in structures],
        "candidate alone": structures[:1],
    }.items():
        arrays = [structure_to_arrays(structure) for structure in batch]

        def build(arrays=arrays):
            return [network.build_crystal(*each) for each in arrays]

        packed = pack_crystals(build())

        def apply(packed=packed):
            with torch.inference_mode():
                network(packed)

        graph, forward = time_it(build, arguments.repeat), time_it(apply, arguments.repeat)
        n_atoms = len(packed.numbers)
        print(
            f"| {len(batch)} {name} | {n_atoms} | {len(packed.centers) / n_atoms:.1f} | {1e3 * graph:.2f} "
            f"| {1e3 * forward:.2f} | {graph / forward:.2f} |"
        )


if __name__ == "__main__":
    main()
