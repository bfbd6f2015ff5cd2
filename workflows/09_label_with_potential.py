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
from pathlib import Path
from time import perf_counter

import numpy as np
from maggma.utils import grouper
from pymatgen.core import Element, Structure

from e3relax_flows import (
    ConfigError,
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
    find_nearest_images,
    find_outcomes,
    get_engine,
    isolate_stores,
    iter_pairs,
    label_prototype,
    measure_log_strain,
    open_pair_store,
    open_pair_stores,
    open_workspace,
    read_structures,
    run_screen,
    scale_volume,
    settle_relaxed,
    write_pair_file,
)

SAME_SITES, SAME_CELL = 0.15, 0.06  # mean displacement, Å; logarithmic strain
SECOND = (("sevennet-0", 1.0), ("chgnet", 2.0))  # engine; by how many per cent its volume may differ
SCATTER, STRAIN, DISPLACEMENTS = 0.12, 0.03, (0.03, 0.08, 0.15)  # ln V, strain, Å: standard deviations
KIN = 8.0  # Mendeleev numbers within which an element is likely to take another's place
LARGEST = 40  # atoms
GASES = {"H": 5.0, "N": 9.0, "O": 10.0, "F": 11.0, "Cl": 21.0}  # Å^3 per atom in solids
UNKNOWN = {"He", "Ne", "Ar", "Kr", "Xe", "Po", "At", "Rn", "Fr", "Ra"}  # potentials have hardly seen these
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
    parents = [
        (name, parent)
        for name, parent in (read_parents(arguments.parents) if arguments.parents else list_prototypes())
        if len(parent) <= arguments.max_atoms and not UNKNOWN.intersection(parent.symbol_set)
        if all(Element(symbol).atomic_radius for symbol in parent.symbol_set)  # volumes are estimated from them
    ]
    if excluded:
        parents = [(name, parent) for name, parent in parents if label_prototype(parent) not in excluded]
    if not parents:
        raise ConfigError("no parent is left; raise --max-atoms or shorten the file of --exclude")
    weights = np.array([len(parent) ** -0.6 for _, parent in parents])  # small cells are cheap
    n_made = 0
    for k in range(20 * arguments.n):
        if n_made == arguments.n:
            return
        rng = np.random.default_rng([arguments.seed, k])
        name, parent = parents[rng.choice(len(parents), p=weights / weights.sum())]
        structure = distort(substitute(parent, rng), rng)
        if structure.chemical_system not in excluded and structure.is_valid(0.6):
            n_made += 1
            yield f"{k} {structure.composition.reduced_formula} from {name}", structure


def list_prototypes() -> Iterator[tuple[str, Structure]]:
    """Ordered AFLOW prototypes, as primitive cells."""
    from pymatgen.analysis.prototypes import AFLOW_PROTOTYPE_LIBRARY

    for entry in AFLOW_PROTOTYPE_LIBRARY:
        structure = entry["snl"].structure.get_primitive_structure()
        if structure.is_ordered:
            yield entry["tags"]["aflow"], make_right_handed(structure)


def read_parents(path: Path) -> Iterator[tuple[str, Structure]]:
    """Ordered structures of files; what cannot be read is named and passed over."""
    for item in read_structures([path]):
        if item.structure is None or not item.structure.is_ordered:
            print(item.error or f"{item.id} is disordered and is passed over")
            continue
        plain = [site.specie.symbol for site in item.structure]
        yield item.id, make_right_handed(Structure(item.structure.lattice, plain, item.structure.frac_coords))


def make_right_handed(structure: Structure) -> Structure:
    """The same crystal or its mirror image: some potentials need right-handed axes."""
    matrix = structure.lattice.matrix
    return Structure(matrix if np.linalg.det(matrix) > 0 else -matrix, structure.species, structure.frac_coords)


def substitute(parent: Structure, rng: np.random.Generator) -> Structure:
    """Put another element in the place of each: in six of ten cases one that is near in Mendeleev's order."""
    elements = [e for e in map(Element.from_Z, range(1, 95)) if e.symbol not in UNKNOWN and e.atomic_radius]
    order = np.array([element.mendeleev_no for element in elements])
    is_near, mapping = rng.random() < 0.6, {}
    for old in sorted(parent.symbol_set):
        chances = np.exp(-abs(order - Element(old).mendeleev_no) / KIN) + 0.01 if is_near else np.ones(len(order))
        chances[[elements.index(new) for new in mapping.values()]] = 0  # different elements stay different
        mapping[old] = elements[rng.choice(len(elements), p=chances / chances.sum())]
    structure = Structure(parent.lattice, [mapping[site.specie.symbol] for site in parent], parent.frac_coords)
    atoms = sum(GASES.get(site.specie.symbol) or float(site.specie.molar_volume or 15) / 0.6022 for site in structure)
    structure.scale_lattice(np.sqrt(scale_volume(structure, parent, "atomic").volume * atoms))
    return structure


def distort(structure: Structure, rng: np.random.Generator) -> Structure:
    """Scatter the volume; strain a part, displace the atoms of a part."""
    kind, stretch = rng.random(), np.exp(rng.normal(0, SCATTER) / 3)
    strain = rng.normal(0, STRAIN, (3, 3)) if kind < 0.45 else np.zeros((3, 3))
    moved = rng.normal(0, rng.choice(DISPLACEMENTS), (len(structure), 3)) if 0.3 < kind < 0.6 else 0.0
    lattice = stretch * structure.lattice.matrix @ (np.eye(3) + (strain + strain.T) / 2)
    return Structure(lattice, structure.species, structure.frac_coords @ lattice + moved, coords_are_cartesian=True)


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
