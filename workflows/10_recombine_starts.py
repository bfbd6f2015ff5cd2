"""Make more initial structures for relaxed ones that are there: the elements of one in the relaxed geometry of another.

    python workflows/10_recombine_starts.py pairs.jsonl.gz --out recombined.jsonl.gz
    python workflows/10_recombine_starts.py train.jsonl.gz val.jsonl.gz --per-target 4      # one file for each

This is what a screen by substitution does: the candidate begins as a known crystal with other elements. The target is
the relaxed side of a pair, so that no new DFT calculation is needed. Target and donor have the same number of atoms and
the same prototype label; pymatgen's StructureMatcher maps their elements, cells and sites, and a start that is further
from the target than initial structures are is left out. Donors that share most elements come first.

Pairs of training and of validation are recombined apart, so that no target appears on both sides. The groups are those
of the targets. Then name both files in the training, and give the new source its share of the samples:

    data: {train: [train.jsonl.gz, recombined.jsonl.gz], shares: {recombined: 0.5}}

The bundled weights were trained with such starts (benchmarks/results/training.md has what they bring).
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Structure

from e3relax_flows import (
    E3RelaxError,
    PairSet,
    label_prototype,
    load_pairs,
    measure_displacements,
    measure_log_strain,
    settle_relaxed,
)

MAX_DISPLACEMENT, MAX_STRAIN = 0.4, 0.8  # Å, mean over atoms; of the start from the target
TRIES = 3  # donors that are tried for each start
SOURCE = "recombined"


class Start(NamedTuple):
    """A start for one target."""

    target: int  # index of the pair
    donor: int
    initial: Structure
    relaxed: Structure  # settled to the start


def main() -> int:
    arguments = parse_arguments()
    try:
        for path in arguments.pairs:
            out = arguments.out or path.with_name(f"recombined-{path.name.split('.')[0]}.jsonl.gz")
            pairs = load_pairs([path])
            n_starts, targets = 0, set[int]()
            with gzip.open(out, "wt", encoding="utf-8") as file:
                for start in recombine(pairs, arguments.per_target, arguments.seed):
                    file.write(json.dumps(describe_start(pairs, start)) + "\n")
                    n_starts += 1
                    targets.add(start.target)
            print(f"{out}: {n_starts} starts for {len(targets)} of {len(pairs)} targets", flush=True)
    except E3RelaxError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def recombine(pairs: PairSet, per_target: int, seed: int = 0) -> Iterator[Start]:
    """At most `per_target` starts for each target, in the order of the pairs."""
    relaxed = [pairs[index].build_relaxed() for index in range(len(pairs))]
    kinds = [(len(structure), label_prototype(structure)) for structure in relaxed]
    similar = defaultdict(list)
    for index, kind in enumerate(kinds):
        similar[kind].append(index)
    matcher = StructureMatcher(ltol=0.4, stol=0.5, angle_tol=15, primitive_cell=False)
    rng = np.random.default_rng(seed)
    for target, kind in enumerate(kinds):
        donors = [index for index in rng.permutation(similar[kind]).tolist() if index != target]
        own = set(relaxed[target].composition)
        donors.sort(key=lambda index: -len(own & set(relaxed[index].composition)))
        n_found = 0
        for donor in donors[: TRIES * per_target]:
            if n_found < per_target and (found := put_into(relaxed[target], relaxed[donor], matcher)):
                n_found += 1
                yield Start(target, donor, *found)


def put_into(target: Structure, donor: Structure, matcher: StructureMatcher) -> tuple[Structure, Structure] | None:
    """The elements of `target` in the geometry of `donor`, and the target settled to it; None if they do not match."""
    mappings = matcher.get_all_anonymous_mappings(target, donor, include_dist=True)
    if not mappings:
        return None
    # as few elements as possible are replaced; then the nearest mapping
    mapping, _ = max(mappings, key=lambda found: (sum(own == other for own, other in found[0].items()), -found[1]))
    elements = {other: own for own, other in mapping.items()}
    replaced = Structure(donor.lattice, [elements[site.specie] for site in donor], donor.frac_coords)
    start = matcher.get_s2_like_s1(target, replaced)
    if start is None or start.species != target.species:
        return None
    if np.linalg.det(start.lattice.matrix) * np.linalg.det(target.lattice.matrix) < 0:  # the mirror image is as good
        start = Structure(-start.lattice.matrix, start.species, start.frac_coords)
    end = settle_relaxed(start, target)
    strain = np.linalg.norm(measure_log_strain(start.lattice.matrix, end.lattice.matrix))
    moves = measure_displacements(start.frac_coords, end.frac_coords, end.lattice.matrix)
    return (start, end) if strain < MAX_STRAIN and moves.mean() < MAX_DISPLACEMENT else None


def describe_start(pairs: PairSet, start: Start) -> dict[str, Any]:
    """A line of a pair file."""
    sides = {"initial": start.initial, "relaxed": start.relaxed}
    return {
        "id": f"{pairs.ids[start.target]} from {pairs.ids[start.donor]}",
        "source": SOURCE,
        "functional": pairs.functionals[start.target],
        "group": pairs.groups[start.target],
        "numbers": list(start.initial.atomic_numbers),
    } | {
        name: {"lattice": side.lattice.matrix.tolist(), "frac": side.frac_coords.tolist()}
        for name, side in sides.items()
    }


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", type=Path, nargs="+", help="pair files, .jsonl or .jsonl.gz, or folders of shards")
    parser.add_argument("--per-target", type=int, default=8, help="starts for each target at most (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="for one pair file; default: recombined-NAME.jsonl.gz beside it")
    arguments = parser.parse_args()
    if arguments.out and len(arguments.pairs) > 1:
        parser.error("--out is for one pair file; leave it out, or type one pair file")
    return arguments


if __name__ == "__main__":
    sys.exit(main())
