"""What `accuracy.py` scores: a seeded sample of pairs, other starts for the same targets, a cache of slow results."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Structure
from scipy.spatial.transform import Rotation

from e3relax_flows import PairSet, draw_uniform

Floats = NDArray[np.float64]


class Case(NamedTuple):
    """One pair by name: the initial and the relaxed structure."""

    id: str
    source: str
    start: Structure
    target: Structure


def choose_cases(pairs: PairSet, per_source: int, seed: int) -> list[Case]:
    """At most `per_source` pairs of each source (0: all), sources taking turns.

    The seed and the ids alone decide the order within a source, so that a smaller sample is part of a larger one.
    """
    queues: dict[str, list[Case]] = defaultdict(list)
    for index in sorted(range(len(pairs)), key=lambda index: draw_uniform(seed, pairs.ids[index])):
        queue = queues[pairs.sources[index]]
        if not per_source or len(queue) < per_source:
            pair = pairs[index]
            queue.append(Case(pairs.ids[index], pairs.sources[index], pair.build_initial(), pair.build_relaxed()))
    rounds = zip_longest(*(queues[source] for source in sorted(queues)))
    return [case for turn in rounds for case in turn if case is not None]


def draw_generator(seed: int, key: str) -> np.random.Generator:
    """Random numbers that depend on `seed` and `key` alone."""
    return np.random.default_rng(int(draw_uniform(seed, key) * 2**53))


def rotate_structure(structure: Structure, seed: int, key: str) -> Structure:
    """The same crystal in a random orientation."""
    rotation = Rotation.from_quat(draw_generator(seed, key).normal(size=4)).as_matrix()
    return Structure(structure.lattice.matrix @ rotation.T, structure.species, structure.frac_coords)


def add_noise(structure: Structure, size: float, seed: int, key: str) -> Structure:
    """Sites moved by normal noise, Å per Cartesian component."""
    shifts = draw_generator(seed, key).normal(size=(len(structure), 3)) * size
    fractions = structure.frac_coords + shifts @ np.linalg.inv(structure.lattice.matrix)
    return Structure(structure.lattice, structure.species, fractions)


def scale_volume(structure: Structure, ratio: float) -> Structure:
    """The cell scaled to `ratio` times its volume, fractional coordinates kept."""
    return Structure(structure.lattice.matrix * ratio ** (1 / 3), structure.species, structure.frac_coords)


def list_starts(seed: int) -> dict[str, Callable[[Case], Structure]]:
    """Starts made from the target, by name."""
    return {
        "target itself": lambda case: case.target,
        "target, noise 0.02 Å": lambda case: add_noise(case.target, 0.02, seed, case.id),
        "target, noise 0.1 Å": lambda case: add_noise(case.target, 0.1, seed, case.id),
        "target, volume +15 %": lambda case: scale_volume(case.target, 1.15),
        "target, volume -15 %": lambda case: scale_volume(case.target, 0.85),
    }


class JsonlCache:
    """Records by key in a file of JSON lines: each is on disk before the next is made; a cut last line is skipped."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._records = {row["key"]: row for row in self._read()}

    def _read(self) -> Iterator[dict[str, Any]]:
        if not self.path.exists():
            return
        text = self.path.read_text()
        for line in text.splitlines():
            try:
                yield json.loads(line)
            except json.JSONDecodeError:
                continue
        if text and not text.endswith("\n"):
            with self.path.open("a") as file:
                file.write("\n")

    def __len__(self) -> int:
        return len(self._records)

    def get(self, key: str) -> dict[str, Any] | None:
        """The record under `key`, if there is one."""
        return self._records.get(key)

    def put(self, key: str, record: dict[str, Any]) -> dict[str, Any]:
        """Append a record and return it."""
        row = {"key": key} | record
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")
            file.flush()
        self._records[key] = row
        return row


def list_sources(cases: Sequence[Case]) -> list[str]:
    """Names of the sources, sorted."""
    return sorted({case.source for case in cases})
