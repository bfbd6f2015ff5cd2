"""Pairs initial -> relaxed as flat arrays, read from files, and training samples made from them."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass as pydantic_dataclass

from e3relax_flows.core.errors import ConfigError
from e3relax_flows.model.elements import MAX_Z

Array = NDArray[np.float64]

FORM = '{"id", "numbers", "initial": {"lattice", "frac"}, "relaxed": {"lattice", "frac"}}'


class Pair(NamedTuple):
    """One crystal before and after relaxation; sites correspond."""

    numbers: NDArray[np.int64]  # [n_atoms]
    initial_fractions: Array  # [n_atoms, 3]
    initial_lattice: Array  # [3, 3] Å
    relaxed_fractions: Array  # [n_atoms, 3]
    relaxed_lattice: Array  # [3, 3] Å


@dataclass(frozen=True)
class PairSet:
    """Many pairs in a few arrays: 29,000 pairs of 13 atoms take 40 MB."""

    ids: list[str]
    sources: list[str]
    first: NDArray[np.int64]  # [n_pairs + 1] first atom of each pair, and the number of atoms
    numbers: NDArray[np.int64]  # [n_atoms]
    fractions: Array  # [2, n_atoms, 3] initial, relaxed
    lattices: Array  # [2, n_pairs, 3, 3] Å

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Pair:
        atoms = slice(int(self.first[index]), int(self.first[index + 1]))
        return Pair(
            self.numbers[atoms],
            self.fractions[0, atoms],
            self.lattices[0, index],
            self.fractions[1, atoms],
            self.lattices[1, index],
        )

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Number of atoms [n_pairs]."""
        return np.diff(self.first)


def iter_pair_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a pair file, one JSON object a line, gzipped or not.

    Raises
    ------
    ConfigError
        When the file cannot be read or a line is no pair.
    """
    required = {"id", "numbers", "initial", "relaxed"}
    try:
        opener = gzip.open if path.suffix == ".gz" else open
        with opener(path, "rt") as lines:
            for line_number, line in enumerate(lines, 1):
                row = json.loads(line)
                missing = sorted(required - row.keys()) if isinstance(row, dict) else sorted(required)
                if missing:
                    raise ConfigError(f"{path} line {line_number}: no {', '.join(missing)}; a pair is {FORM}")
                yield row
    except (OSError, EOFError, ValueError, zlib.error) as error:  # a cut or damaged gzip file raises any of these
        raise ConfigError(f"{path}: {error}; it must be a .jsonl or .jsonl.gz file of pairs") from error


def load_pairs(paths: Sequence[Path]) -> PairSet:
    """Read pair files into memory, in order.

    Raises
    ------
    ConfigError
        When a file cannot be read, holds something that is no pair, or there are no pairs at all.
    """
    ids: list[str] = []
    sources: list[str] = []
    pairs: list[Pair] = []
    for path in paths:
        for row in iter_pair_rows(Path(path)):
            try:
                pairs.append(_parse_pair(row))
            except (KeyError, TypeError, ValueError) as error:
                what = f"no {error}" if isinstance(error, KeyError) else str(error)
                raise ConfigError(f"{path}: pair {row['id']!r}: {what}; a pair is {FORM}") from error
            ids.append(str(row["id"]))
            sources.append(str(row.get("source") or "unknown"))
    if not ids:
        raise ConfigError(f"no pairs in {', '.join(map(str, paths))}")
    return PairSet(
        ids,
        sources,
        np.concatenate([[0], np.cumsum([len(pair.numbers) for pair in pairs])]),
        np.concatenate([pair.numbers for pair in pairs]),
        np.stack(
            [
                np.concatenate([pair.initial_fractions for pair in pairs]),
                np.concatenate([pair.relaxed_fractions for pair in pairs]),
            ]
        ),
        np.stack([[pair.initial_lattice for pair in pairs], [pair.relaxed_lattice for pair in pairs]]),
    )


def _parse_pair(row: dict[str, Any]) -> Pair:
    numbers = np.asarray(row["numbers"], dtype=np.int64)
    if numbers.ndim != 1 or not len(numbers) or numbers.min() < 1 or numbers.max() > MAX_Z:
        raise ValueError(f"numbers {row['numbers']!r} are not a list of atomic numbers, 1 to {MAX_Z}")
    sides: list[Array] = []
    for name in ("initial", "relaxed"):
        frac, lattice = (np.asarray(row[name][key], dtype=float) for key in ("frac", "lattice"))
        if frac.shape != (len(numbers), 3) or lattice.shape != (3, 3):
            raise ValueError(
                f"{name} has {frac.shape} coordinates and a {lattice.shape} lattice for {len(numbers)} atoms"
            )
        sides += [frac, lattice]
    return Pair(numbers, *sides)


def list_elements(pairs: PairSet, at_least: int = 10) -> list[int]:
    """Atomic numbers that occur in `at_least` pairs; all that occur where there are fewer pairs than 100 times that."""
    counts = np.zeros(MAX_Z + 1, dtype=np.int64)
    for index in range(len(pairs)):
        counts[np.unique(pairs[index].numbers)] += 1
    return [int(number) for number in np.flatnonzero(counts >= (at_least if len(pairs) >= 100 * at_least else 1))]


@pydantic_dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Augmentation:
    """How starts differ from those in the data, so that good starts are left alone and noisy ones mended."""

    identity: float = 0.1  # share of samples that start at the relaxed structure
    near: float = 0.1  # share that start at the relaxed structure with strain and noise
    near_strain: float = 0.03  # standard deviation of that strain's components
    near_noise: float = 0.05  # Å, standard deviation of that noise per component
    jitter_strain: float = 0.01  # the same, for the other samples
    jitter_noise: float = 0.01  # Å

    def vary(self, pair: Pair, rng: np.random.Generator) -> Pair:
        """A sample made from `pair`; the relaxed side stays as it is."""
        kind = rng.random()
        if kind < self.identity:
            return pair._replace(initial_fractions=pair.relaxed_fractions, initial_lattice=pair.relaxed_lattice)
        if kind < self.identity + self.near:
            start, lattice = pair.relaxed_fractions, pair.relaxed_lattice
            strain, noise = self.near_strain * rng.random(), self.near_noise * rng.random()
        else:
            start, lattice = pair.initial_fractions, pair.initial_lattice
            # half of the starts stay exact, so that crystals with symmetry are seen too
            strain, noise = rng.integers(2) * np.array([self.jitter_strain, self.jitter_noise])
        strains = rng.normal(size=(3, 3)) * strain
        varied = lattice @ (np.eye(3) + 0.5 * (strains + strains.T))
        shifts = rng.normal(size=start.shape) * noise
        return pair._replace(initial_fractions=start + shifts @ np.linalg.inv(varied), initial_lattice=varied)
