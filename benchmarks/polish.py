"""How many steps of a potential from a prediction are worth it, and how far it is believed: table and rule.

python benchmarks/polish.py VAL.jsonl.gz [--shifted OTHER.jsonl.gz] --potential sevennet --rows rows.jsonl
    [--max-atoms 10] [--per-source 20] [--steps 30]

From every prediction, refused ones too, the potential makes steps until its forces vanish. ROWS keeps what was
measured, so that the command goes on where it stopped. The rule is fitted to VAL and judged on each of its sources by a
rule that was fitted without it, on OTHER by the rule of all VAL. Errors are displacement + 2.5 Å · strain, to the
relaxed structure.
"""

from __future__ import annotations

import argparse
import json
from itertools import product
from pathlib import Path

import numpy as np
import torch
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS
from pymatgen.core import Lattice, Structure
from pymatgen.io.ase import AseAtomsAdaptor

from e3relax_flows import GuardLimits, Predictor
from e3relax_flows.core.geometry import STRAIN_WEIGHT_ANGSTROM
from e3relax_flows.core.savings import measure_savings
from e3relax_flows.ledger.joining import measure_errors
from e3relax_flows.predict.opinions import Judge, turn_right_handed
from e3relax_flows.predict.polish import CONVERGED, MAX_VOLUME_RATIO
from e3relax_flows.train.dataset import load_pairs
from e3relax_flows.train.evaluate import make_start

KEPT = (0, 2, 5, 10, 20, 30)
NEVER = (0, np.inf, np.inf)  # steps, smallest expected error, longest move in expected errors
RULES = list(product((5, 10, 20, 30), (0.0, 0.02, 0.05, 0.1, 0.2, 0.35), (0.5, 1.0, 1.5, 2.0, 3.0, np.inf)))
SPOILED = 0.02  # share by which a rule may make the mean error of a source larger: noise of some dozens of crystals


def measure(structure, other):
    errors = measure_errors(structure, other)
    return errors.displacement + STRAIN_WEIGHT_ANGSTROM * errors.strain


def make_steps(judge, start, relaxed, most):
    """Error and move, Å, after numbers of steps; the last is where the forces have vanished, or the limit."""
    atoms = AseAtomsAdaptor.get_atoms(start, msonable=False)
    atoms.calc = judge.calculator
    optimizer = BFGS(FrechetCellFilter(atoms), logfile=None)
    errors, moves, volume = {}, {}, atoms.get_volume()
    for has_converged in optimizer.irun(fmax=CONVERGED, steps=most):
        n = optimizer.nsteps
        if n in KEPT or has_converged or n == most:
            now = Structure(Lattice(atoms.cell.array), start.species, atoms.positions, coords_are_cartesian=True)
            errors[n], moves[n] = measure(now, relaxed), measure(now, start)
        if not 1 / MAX_VOLUME_RATIO < atoms.get_volume() / volume < MAX_VOLUME_RATIO:
            break
    return errors, moves


def choose_pairs(pairs, arguments, known):
    """Indices in turns over the sources, drawn by seed, of small crystals that are not measured yet."""
    places = {}
    for index, source in enumerate(pairs.sources):
        if pairs.first[index + 1] - pairs.first[index] <= arguments.max_atoms:
            places.setdefault(source, []).append(index)
    rng = np.random.default_rng(1)
    for place in places.values():
        rng.shuffle(place)
    turns = [place[turn] for turn in range(arguments.per_source) for place in places.values() if turn < len(place)]
    return [index for index in turns if pairs.ids[index] not in known]


def measure_pairs(path, arguments, predictor, judge):
    """Measure what is missing of a file, and write it down."""
    known = {row["id"] for row in read_rows(arguments.rows)}
    pairs = load_pairs([path])
    with arguments.rows.open("a", encoding="utf-8") as stream:
        for index in choose_pairs(pairs, arguments, known):
            pair, start = pairs[index], make_start(pairs[index])
            relaxed = Structure(Lattice(pair.relaxed_lattice), start.species, pair.relaxed_fractions)
            (prediction,) = predictor.predict([start], guards=GuardLimits(max_harm=1.0))
            if prediction.structure is None:
                continue
            try:
                errors, moves = make_steps(judge, turn_right_handed(prediction.structure), relaxed, arguments.steps)
            except Exception as error:  # elements or neighbours that the potential does not have
                print(f"{pairs.ids[index]}: {error}")
                continue
            row = {"id": pairs.ids[index], "source": pairs.sources[index], "file": path.name, "errors": errors}
            row |= {"initial": measure(start, relaxed), "expected": prediction.expected_error, "moves": moves}
            stream.write(json.dumps(row) + "\n")
            stream.flush()


def read_rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def take(values, steps):
    """The value after at most so many steps."""
    return values[str(max(n for n in map(int, values) if n <= steps))]


def serve(row, rule):
    """Error of what a rule serves."""
    steps, min_error, max_move = rule
    is_tried = row["expected"] >= min_error
    is_believed = take(row["moves"], steps) <= max_move * row["expected"]
    return take(row["errors"], steps if is_tried and is_believed else 0)


def average(rows, rule):
    """Mean error, and mean ln(error of the initial structure / served error)."""
    initial, served = np.array([(row["initial"], serve(row, rule)) for row in rows]).T
    return served.mean(), measure_savings(initial, served).mean()


def fit_rule(rows):
    """The rule that saves most, every source counted the same, of those that spoil no source."""
    sources = [[row for row in rows if row["source"] == name] for name in sorted({row["source"] for row in rows})]
    alone = [average(part, NEVER)[0] for part in sources]

    def judge(rule):
        found = [average(part, rule) for part in sources]
        is_kept = all(error <= (1 + SPOILED) * before for (error, _), before in zip(found, alone, strict=True))
        return is_kept, np.mean([saving for _, saving in found])

    return max([NEVER, *RULES], key=judge)


def describe(rule):
    return (
        "no step"
        if rule == NEVER
        else f"{rule[0]} steps from {rule[1]:g} Å, believed up to {rule[2]:g} expected errors"
    )


def print_tables(rows, fitted_to):
    mine = [row for row in rows if row["file"] == fitted_to]
    rule = fit_rule(mine)
    print("| source | n | initial | " + " | ".join(map(str, KEPT)) + " | by the rule | that rule |")
    print("|" + "---|" * (len(KEPT) + 5))
    for name in sorted({row["source"] for row in rows}):
        part = [row for row in rows if row["source"] == name]
        unseen = rule if part[0]["file"] != fitted_to else fit_rule([row for row in mine if row["source"] != name])
        means = [np.mean([take(row["errors"], n) for row in part]) for n in KEPT]
        before, after = average(part, NEVER), average(part, unseen)
        print(f"| {name} | {len(part)} | {np.mean([row['initial'] for row in part]):.3f} | "
              + " | ".join(f"{value:.3f}" for value in means)
              + f" | {after[0]:.3f} (ln saving {before[1]:.2f} -> {after[1]:.2f}) | {describe(unseen)} |")  # fmt: skip
    print(f"\nThe rule of all: {describe(rule)}; fitted to {len(mine)} crystals")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("--shifted", type=Path)
    parser.add_argument("--potential", default="chgnet")
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--max-atoms", type=int, default=10)
    parser.add_argument("--per-source", type=int, default=20)
    parser.add_argument("--steps", type=int, default=KEPT[-1])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.per_source:
        predictor, judge = Predictor.load(device="cpu"), Judge(arguments.potential, "cpu")
        for path in filter(None, (arguments.pairs, arguments.shifted)):
            measure_pairs(path, arguments, predictor, judge)
    print_tables(read_rows(arguments.rows), arguments.pairs.name)


if __name__ == "__main__":
    main()
