"""Label initial structures with a potential and keep what other potentials confirm: pairs for training and for replay.

    python workflows/09_label_with_potential.py --n 200                        # SevenNet-l3i5, confirmed by two others
    python workflows/09_label_with_potential.py --parents relaxed/ --n 500     # from relaxed structures of your own
    python workflows/09_label_with_potential.py --teacher mlip --set potential=mine:Calculator --exclude held_out.txt

The initial structures are made by substitution into pymatgen's AFLOW prototypes or into your own structures; volumes
are estimated from the elements and scattered, and a part is strained or displaced. They are predicted with the network,
relaxed by the teacher from there, and relaxed once more by each other potential from the minimum of the teacher. A pair
is kept where all minima are the same: the volumes differ by less than the given percentage, and atoms and cell hardly
move. The others are disputed and go into a file of their own.

The percentages decide what a label is worth. On 359 pairs with DFT labels the teacher's volume was wrong by 3.2 % in
the mean, by 2.0 % where CHGNet agreed within 3 %, and by 0.5 % with the default of this script, which keeps 38 % of
them (benchmarks/results/training.md).

--exclude takes a text file with a chemical system (Cl-Na) or a prototype, as `e3relax data show` prints them, on each
line: nothing of these is made, so that your holdouts stay apart. All stores are in the folder --out. Run it again after
an interruption: finished relaxations are found. Labels of potentials are never DFT results, and their pairs state it:
`e3relax data import runs/labels/pairs.jsonl.gz` makes them ready for a retraining.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from time import perf_counter

import numpy as np
from maggma.utils import grouper
from pymatgen.core import Structure

from e3relax_flows import (
    CrystalRules,
    E3RelaxError,
    E3RelaxSettings,
    Engine,
    GuardLimits,
    OutcomeDocuments,
    OutcomeState,
    PairBuilder,
    PairDoc,
    PredictOptions,
    PrerelaxMaker,
    ScreenDoc,
    ScreenMaker,
    draw_crystals,
    find_nearest_images,
    find_outcomes,
    get_engine,
    isolate_stores,
    iter_pairs,
    label_prototype,
    list_prototypes,
    measure_log_strain,
    open_pair_store,
    open_pair_stores,
    open_workspace,
    read_structures,
    run_screen,
    settle_relaxed,
    write_pair_file,
)

SAME_SITES, SAME_CELL = 0.15, 0.06  # mean displacement, Å; logarithmic strain
SECOND = (("sevennet-0", 1.0), ("chgnet", 2.0))  # engine; by how many per cent its volume may differ
LARGEST = 40  # atoms
PREDICT_NOTHING = PredictOptions(guards=GuardLimits(max_score=0.0))  # all are refused: relax from what is given


def main() -> int:
    arguments = parse_arguments()
    teacher = get_engine(arguments.teacher, **arguments.settings)
    others = [(get_engine(name), percentage / 100) for name, percentage in arguments.second]
    starts = list(draw_starts(arguments))
    settings = isolate_stores(arguments.out)
    begin = perf_counter()
    prerelax = PrerelaxMaker(model=arguments.model)
    screen = ScreenMaker(name="teacher", prerelax=prerelax, engine=teacher, control=0.0, deduplicate=False)
    report = run_screen(
        screen, [s for _, s in starts], [name for name, _ in starts], settings, arguments.out / "teacher"
    )
    pairs = build_pairs(report.screen, arguments.source, settings)
    if not pairs:
        raise E3RelaxError(f"none of {len(starts)} structures was relaxed to the end; see {report.page}")
    judged = judge(pairs, others, arguments, settings)
    for name, wanted in (("pairs", False), ("disputed", True)):
        write_pair_file(arguments.out / f"{name}.jsonl.gz", [pair for pair, reason in judged if bool(reason) is wanted])
    counts = Counter(reason or "kept" for _, reason in judged)
    hours = (perf_counter() - begin) / 3600
    names = ", ".join(other.label for other, _ in others)
    print(f"{len(starts)} started, {len(pairs)} relaxed by {teacher.label}; {counts['kept']} confirmed by {names}")
    print(f"disputed: {', '.join(f'{n} by {reason}' for reason, n in counts.items() if reason != 'kept') or 'none'}")
    print(f"{counts['kept'] / hours:.0f} pairs an hour in this run; they are in {arguments.out / 'pairs.jsonl.gz'}")
    return 0


def draw_starts(arguments: argparse.Namespace) -> Iterator[tuple[str, Structure]]:
    """So many initial structures with their names; the k-th depends on the parents, the seed and k alone."""
    excluded = set(arguments.exclude.read_text(encoding="utf-8").split()) if arguments.exclude else set()
    parents = list(read_parents(arguments.parents) if arguments.parents else list_prototypes())
    if excluded:
        parents = [(name, parent) for name, parent in parents if label_prototype(parent) not in excluded]
    rules = CrystalRules(parents, arguments.max_atoms, excluded, seed=arguments.seed)
    return islice(draw_crystals(rules), arguments.n)


def read_parents(path: Path) -> Iterator[tuple[str, Structure]]:
    """Ordered structures of files; what cannot be read is named and passed over."""
    for item in read_structures([path]):
        if item.structure is None or not item.structure.is_ordered:
            print(item.error or f"{item.id} is disordered and is passed over")
            continue
        yield item.id, item.structure


def build_pairs(screen: ScreenDoc, source: str, settings: E3RelaxSettings) -> list[PairDoc]:
    """Pairs of what a screen relaxed, with the initial structures as their initial sides."""
    wanted = {outcome.outcome_id for row in screen.candidates for outcome in row.outcomes}
    with open_workspace(settings) as stores, open_pair_stores(settings) as targets:
        builder = PairBuilder(
            targets.pairs, targets.records, predictions=stores.predictions, outcomes=stores.outcomes, source=source
        )
        builder.connect()
        items = (
            item
            for item in builder.get_items()
            if isinstance(item, OutcomeDocuments) and item.outcome.outcome_id in wanted
        )
        for chunk in grouper(items, builder.chunk_size):
            builder.update_targets([builder.process_item(item) for item in chunk])
    with open_pair_store(settings) as store:
        return [pair for pair in iter_pairs(store) if pair.origin_id in wanted]


def judge(
    pairs: Sequence[PairDoc],
    others: Sequence[tuple[Engine, float]],
    arguments: argparse.Namespace,
    settings: E3RelaxSettings,
) -> list[tuple[PairDoc, str]]:
    """Each pair and why it is disputed, empty where it is not; an engine relaxes what those before it confirm."""
    reasons = dict.fromkeys((pair.pair_id for pair in pairs), "")
    for other, tolerance in others:
        confirmed = [pair for pair in pairs if not reasons[pair.pair_id]]
        minima = confirm(confirmed, other, arguments, settings) if confirmed else {}
        for pair in confirmed:
            reason = explain_dispute(pair.relaxed, minima.get(pair.pair_id), tolerance)
            reasons[pair.pair_id] = reason and f"{reason} ({other.label})"
    return [(pair, reasons[pair.pair_id]) for pair in pairs]


def confirm(
    pairs: Sequence[PairDoc], other: Engine, arguments: argparse.Namespace, settings: E3RelaxSettings
) -> dict[str, Structure]:
    """Minima of another potential, reached from those of the teacher, by pair id; none where it did not converge."""
    prerelax = PrerelaxMaker(model=arguments.model, options=PREDICT_NOTHING)
    screen = ScreenMaker(name="second opinion", prerelax=prerelax, engine=other, control=0.0, deduplicate=False)
    ids = [pair.pair_id for pair in pairs]
    report = run_screen(screen, [pair.relaxed for pair in pairs], ids, settings, arguments.out / "second" / other.label)
    names = {outcome.outcome_id: row.id for row in report.screen.candidates for outcome in row.outcomes}
    with open_workspace(settings) as stores:
        outcomes = find_outcomes(stores.outcomes, names)
    return {
        str(names[outcome_id]): outcome.result.relaxed
        for outcome_id, outcome in outcomes.items()
        if outcome.state is OutcomeState.SUCCESSFUL and outcome.result is not None
    }


def explain_dispute(teacher: Structure, second: Structure | None, tolerance: float) -> str:
    """Why the minimum of another potential is not the teacher's, in a word; empty where it is."""
    if second is None:
        return "no minimum"
    if abs(second.volume / teacher.volume - 1) > tolerance:
        return "volume"
    settled = settle_relaxed(teacher, second)
    moves = find_nearest_images(settled.frac_coords - teacher.frac_coords, settled.lattice.matrix)
    displacement = np.linalg.norm(moves @ settled.lattice.matrix, axis=1).mean()
    strain = np.linalg.norm(measure_log_strain(teacher.lattice.matrix, settled.lattice.matrix))
    return "basin" if displacement > SAME_SITES or strain > SAME_CELL else ""


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=100, help="initial structures")
    parser.add_argument("--seed", type=int, default=0, help="another one makes other structures")
    parser.add_argument("--teacher", default="sevennet", help="engine whose minima are the labels")
    parser.add_argument(
        "--second",
        action="append",
        nargs=2,
        metavar=("ENGINE", "PERCENTAGE"),
        help="engine that must agree, and by how much its volume may differ; default: sevennet-0 1, chgnet 2",
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="setting of the teacher")
    parser.add_argument("--parents", type=Path, help="files of relaxed structures, in place of AFLOW's prototypes")
    parser.add_argument("--exclude", type=Path, help="text file of chemical systems and prototypes to leave out")
    parser.add_argument("--max-atoms", type=int, default=LARGEST, help="of a parent")
    parser.add_argument("--model", default="default", help="model that predicts")
    parser.add_argument("--source", default="teacher", help="source of the pairs")
    parser.add_argument("--out", type=Path, default=Path("runs/labels"), help="folder of stores, pages and pairs")
    arguments = parser.parse_args()
    arguments.settings = dict(entry.split("=", 1) for entry in arguments.set)
    try:
        arguments.second = [(name, float(percentage)) for name, percentage in arguments.second or SECOND]
    except ValueError as error:
        parser.error(f"--second takes an engine and a percentage, such as: --second chgnet 2 ({error})")
    return arguments


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except E3RelaxError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from error
