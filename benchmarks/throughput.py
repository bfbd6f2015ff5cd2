"""Structures per second, from Structures in to Structures out and of the network alone, against rivals and the floor.

python benchmarks/throughput.py [--model default] [--device cpu] [--threads 1] [--structures 240] [--stream 2000]
    [--rivals MODEL ...]

Rivals are other models, such as the authors' architecture (`e3relax models import`, or `kind: released` in
configs/train.yaml for other sizes), and relaxations with CHGNet. The floor is the time of the matrix products alone at
the rate that this machine reaches with large ones. All are timed in turns; ratios are medians over the turns. With
--device cuda the network is also timed in TF32 and bf16, with the memory that it takes. `--pairs` takes structures from
a file of pairs.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import os
import platform
import shlex
import sys
from collections import deque
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import torch
from machine import read_cpu
from pymatgen.core import Structure
from throughput_parts import (
    MatmulCounter,
    apply_network,
    build_structures,
    build_supercells,
    compare,
    count_matmuls,
    count_parameters,
    format_table,
    interleave,
    measure_matmul_rate,
    measure_peak_memory,
    read_peak_rss,
    record_batches,
    relax_with_chgnet,
    replay_matmuls,
    time_call,
    use_precision,
    watch_network,
)

from e3relax_flows import PredictOptions, Predictor, collect_versions, load_pairs

SECTIONS = ("stream", "rivals", "parts", "precisions", "sizes")  # first what looks at the memory
PACKAGES = ("python", "torch", "numpy", "pymatgen", "spglib", "moyopy", "vesin", "chgnet", "e3relax-flows")
OURS = "ours"
N_SHAPES = 4
ALWAYS = PredictOptions(stop_below=0.0)  # two passes and the residual, however little they move


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="default")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--structures", type=int, default=240, help="number of structures of the first tables")
    parser.add_argument("--rivals", nargs="*", default=[], help="aliases, names, ids or folders of other models")
    parser.add_argument("--rival-structures", type=int, default=8, help="structures for each of these")
    parser.add_argument("--chgnet", type=int, default=6, help="structures that CHGNet relaxes; 0: leave it out")
    parser.add_argument(
        "--stream", type=int, default=2_000, help="structures that are streamed, up to 100,000 and more"
    )
    parser.add_argument(
        "--pairs", type=Path, help="take initial structures from this .jsonl or .jsonl.gz file of pairs"
    )
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--sections", nargs="*", choices=SECTIONS, default=list(SECTIONS))
    return parser.parse_args(arguments)


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    predictor = Predictor.load(arguments.model, arguments.device)
    structures = read_structures(arguments)
    print(describe_run(arguments, predictor, structures))
    tables = {
        "rivals": lambda: tabulate_rivals(predictor, structures, arguments),
        "parts": lambda: tabulate_parts(predictor, structures, arguments.repeat),
        "precisions": lambda: tabulate_precisions(predictor, structures, arguments.repeat),
        "sizes": lambda: tabulate_sizes(predictor, arguments.repeat),
        "stream": lambda: tabulate_stream(predictor, structures, arguments.stream),
    }
    for section in sorted(arguments.sections, key=SECTIONS.index):
        print(f"\n{tables[section]()}", flush=True)


def read_structures(arguments: argparse.Namespace) -> list[Structure]:
    """The structures that are timed, sorted by nothing."""
    if arguments.pairs is None:
        return build_structures(arguments.structures)
    pairs = load_pairs([arguments.pairs])
    step = max(1, len(pairs) // arguments.structures)
    return [
        pair.build_initial()
        for pair in itertools.islice((pairs[index] for index in range(0, len(pairs), step)), arguments.structures)
    ]


def describe_run(arguments: argparse.Namespace, predictor: Predictor, structures: Sequence[Structure]) -> str:
    """Command, date, machine, versions and what was timed."""
    versions = collect_versions(PACKAGES[1:])
    machine = f"{read_cpu()} ({os.cpu_count()} cores, {arguments.threads} thread(s), {platform.system()})"
    if predictor.device.type == "cuda":
        machine += f", {torch.cuda.get_device_name(predictor.device)}"
    n_atoms = sum(map(len, structures)) / len(structures)
    named = ", ".join(f"{name} {versions[name]}" for name in PACKAGES if name in versions)
    date = datetime.now(UTC).isoformat(timespec="minutes")
    return (
        f"`{shlex.join(['python', *sys.argv])}` · {date} · {machine} · {named} · model {predictor.model_id} · "
        f"{len(structures)} structures, {n_atoms:.1f} atoms on average"
    )


def tabulate_rivals(predictor: Predictor, structures: list[Structure], arguments: argparse.Namespace) -> str:
    """Ours against other models and CHGNet, whole and network alone, and against the floor."""
    device = predictor.device
    predictors = {OURS: predictor} | {name: Predictor.load(name, str(device)) for name in arguments.rivals}
    given = {name: structures if name == OURS else structures[: arguments.rival_structures] for name in predictors}
    packed = {name: record_batches(each, given[name]) for name, each in predictors.items()}
    counters = {name: count_matmuls(each.network, packed[name]) for name, each in predictors.items()}
    rate = measure_matmul_rate(device)
    alone = interleave(
        {name: lambda name=name: apply_network(predictors[name].network, packed[name]) for name in predictors}
        | {"products": replay_matmuls(counters[OURS].shapes, device)},
        arguments.repeat,
        device,
    )
    whole = interleave(
        {name: lambda name=name: predictors[name].predict(given[name], ALWAYS) for name in predictors},
        arguments.repeat,
        device,
    )
    lines = []
    for name, each in predictors.items():
        n, share = len(given[name]), len(given[name]) / len(structures)
        floor = counters[name].flops / rate
        lines.append(
            [
                name,
                f"{count_parameters(each.network):,}",
                f"{n / min(whole[name]):.1f}",
                f"{compare(whole, name, OURS) / share:.2f}",
                f"{1e3 * min(alone[name]) / n:.2f}",
                f"{compare(alone, name, OURS) / share:.2f}",
                f"{counters[name].flops / n / 1e6:.1f}",
                f"{floor / min(alone[name]):.0%}",
            ]
        )
    if arguments.chgnet and importlib.util.find_spec("chgnet"):
        few = structures[: arguments.chgnet]
        ours = min(time_call(lambda: predictor.predict(few * 4, ALWAYS), device) for _ in range(2)) / len(few * 4)
        seconds, steps, n_parameters = relax_with_chgnet(few)
        name = f"CHGNet to 0.05 eV/Å, {steps:.0f} steps ({len(few)} structures, CPU)"
        lines.append([name, f"{n_parameters:,}", f"{1 / seconds:.2f}", f"{seconds / ours:.0f}", "", "", "", ""])
    head = [
        "",
        "parameters",
        "structures/s",
        "time / ours",
        "network, ms",
        "time / ours",
        "products, MFLOP",
        "of floor",
    ]
    return f"{format_table(head, lines)}\n\n{describe_floor(counters[OURS], rate, min(alone['products']), structures)}"


def describe_floor(counter: MatmulCounter, rate: float, seconds: float, structures: Sequence[Structure]) -> str:
    """What the machine does with large products, and with those of our network."""
    totals = {shapes: n * shapes[0][-1] * torch.Size(shapes[0][:-1]).numel() * shapes[1][-1]
              for shapes, n in counter.shapes.items()}  # fmt: skip
    largest = sorted(totals, key=lambda shapes: -totals[shapes])[:N_SHAPES]
    names = ", ".join(" · ".join("x".join(map(str, shape)) for shape in shapes) for shapes in largest)
    return (
        f"structures/s: from Structure to Structure, 2 passes and the residual; network: one application, per "
        f"structure. Large products (2048³, float32): {rate / 1e9:.1f} GFLOP/s, so the floor of our network is "
        f"{1e3 * counter.flops / rate / len(structures):.3f} ms per structure. Its own products alone take "
        f"{1e3 * seconds / len(structures):.3f} ms ({counter.flops / seconds / 1e9:.1f} GFLOP/s); most is in {names}."
    )


def tabulate_parts(predictor: Predictor, structures: list[Structure], repeat: int) -> str:
    """How much of the time from Structure to Structure is the network's."""
    total, network = float("inf"), 0.0
    for _ in range(repeat + 1):
        with watch_network(predictor) as spent:
            seconds = time_call(lambda: predictor.predict(structures, ALWAYS), predictor.device)
        if seconds < total:
            total, network = seconds, sum(spent)
    parts = {"network": network, "checks, symmetry, graphs, guards, documents": total - network, "all": total}
    lines = [[name, f"{1e3 * s / len(structures):.3f}", f"{s / total:.1%}"] for name, s in parts.items()]
    return format_table(["part", "ms per structure", "share"], lines)


def tabulate_precisions(predictor: Predictor, structures: list[Structure], repeat: int) -> str:
    """The network alone in several precisions, with the memory of an accelerator."""
    device, network = predictor.device, predictor.network
    packed = record_batches(predictor, structures)
    precisions = ("fp32", "TF32", "bf16") if device.type == "cuda" else ("fp32", "bf16")

    def apply(precision: str) -> None:
        with use_precision(precision, device):
            apply_network(network, packed)

    times = interleave({name: lambda name=name: apply(name) for name in precisions}, repeat, device)
    lines = []
    for name in precisions:
        memory = "-"
        if device.type == "cuda":
            with use_precision(name, device):
                memory = f"{measure_peak_memory(network, packed) / 1e3:.1f}"
        lines.append([name, f"{len(structures) / min(times[name]):.0f}", f"{compare(times, name, 'fp32'):.2f}", memory])
    return format_table(["precision", "network, structures/s", "time / fp32", "memory, kB per atom"], lines)


def tabulate_sizes(predictor: Predictor, repeat: int) -> str:
    """Cost per atom of one crystal in ever larger cells."""
    device, network = predictor.device, predictor.network
    functions, atoms, edges = {}, {}, {}
    for perfect, rattled in build_supercells():
        n = len(perfect)
        copies = max(1, 320 // n)
        packed = record_batches(predictor, [rattled] * copies)
        functions[f"{n} perfect"] = lambda given=[perfect] * copies: predictor.predict(given)
        functions[f"{n} rattled"] = lambda given=[rattled] * copies: predictor.predict(given)
        functions[f"{n} network"] = lambda packed=packed: apply_network(network, packed)
        atoms[n], edges[n] = n * copies, sum(len(batch.centers) for batch in packed) / copies / n
    times = interleave(functions, repeat, device)
    per_atom = {name: 1e3 * min(values) / atoms[int(name.split()[0])] for name, values in times.items()}
    lines = [
        [str(n), f"{edges[n]:.1f}", *(f"{per_atom[f'{n} {how}']:.3f}" for how in ("perfect", "rattled", "network"))]
        for n in atoms
    ]
    head = ["atoms", "edges per atom", "perfect, ms per atom", "rattled, ms per atom", "network alone, ms per atom"]
    return format_table(head, lines)


def tabulate_stream(predictor: Predictor, structures: list[Structure], n: int) -> str:
    """Rate and memory for 1, 10, ... and `n` structures from a generator."""
    lines = []
    for count in sorted({*itertools.takewhile(lambda count: count < n, (10**power for power in range(9))), n}):
        source = itertools.islice(itertools.cycle(structures), count)
        seconds = time_call(lambda source=source: deque(predictor.iter_predict(source), maxlen=0), predictor.device)
        lines.append([f"{count:,}", f"{1e3 * seconds / count:.2f}", f"{count / seconds:.1f}", f"{read_peak_rss():.0f}"])
    return format_table(["structures", "ms per structure", "structures/s", "peak memory so far, MB"], lines)


if __name__ == "__main__":
    main()
