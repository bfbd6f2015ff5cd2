"""Pairs initial -> relaxed as flat arrays, with their sources and functionals."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from e3relax_flows.core.errors import ConfigError
from e3relax_flows.core.functionals import spell_functional
from e3relax_flows.core.ids import ID_LENGTH
from e3relax_flows.model.elements import MAX_Z

if TYPE_CHECKING:
    from pymatgen.core import Structure

Array = NDArray[np.float64]

UNKNOWN = "unknown"  # source, functional or group of a pair without one


class Pair(NamedTuple):
    """One crystal before and after relaxation; sites correspond."""

    numbers: NDArray[np.int64]  # [n_atoms]
    initial_fractions: Array  # [n_atoms, 3]
    initial_lattice: Array  # [3, 3] Å
    relaxed_fractions: Array  # [n_atoms, 3]
    relaxed_lattice: Array  # [3, 3] Å

    def build_initial(self) -> Structure:
        """The structure before relaxation."""
        from pymatgen.core import Structure  # which training nodes do without

        return Structure(self.initial_lattice, self.numbers.tolist(), self.initial_fractions)

    def build_relaxed(self) -> Structure:
        """The structure after relaxation."""
        from pymatgen.core import Structure

        return Structure(self.relaxed_lattice, self.numbers.tolist(), self.relaxed_fractions)


@dataclass(frozen=True)
class PairSet:
    """Many pairs in a few arrays: 29,000 pairs of 13 atoms take 40 MB; ConfigError where numbers are not finite.

    Examples
    --------
    >>> import numpy as np
    >>> from e3relax_flows import PairSet
    >>> pairs = PairSet(
    ...     ids=["CsCl"], sources=["mine"], first=np.array([0, 2]), numbers=np.array([55, 17]),
    ...     fractions=np.array([[[0, 0, 0], [0.5, 0.5, 0.5]]] * 2), lattices=np.eye(3) * [[[[4.4]]], [[[4.12]]]],
    ... )
    >>> len(pairs), pairs[0].build_initial().composition.reduced_formula
    (1, 'CsCl')
    """

    ids: list[str]
    sources: list[str]  # source of each pair
    first: NDArray[np.int64]  # [n_pairs + 1] first atom of each pair, and the number of atoms
    numbers: NDArray[np.int64]  # [n_atoms]
    fractions: Array  # [2, n_atoms, 3] initial, relaxed
    lattices: Array  # [2, n_pairs, 3, 3] Å
    functionals: list[str] = field(default_factory=list)  # with which the relaxed side was computed
    groups: list[str] = field(default_factory=list)  # which a split must not divide

    def __post_init__(self) -> None:
        for name in ("functionals", "groups"):
            if not getattr(self, name):
                object.__setattr__(self, name, [UNKNOWN] * len(self.ids))
        if not (np.isfinite(self.fractions).all() and np.isfinite(self.lattices).all()):
            self._refuse_infinite()

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

    def _refuse_infinite(self) -> None:
        """Raise for pairs with coordinates or lattices that are not finite."""
        wrong = [self.ids[i] for i in range(len(self)) if not all(np.isfinite(part).all() for part in self[i][1:])]
        raise ConfigError(
            f"{len(wrong)} pairs have coordinates or lattices that are not finite, such as {wrong[0]!r}; leave them "
            "out (in a store: e3relax data check)"
        )

    def select(self, indices: Sequence[int]) -> PairSet:
        """These pairs, in this order."""
        chosen = [int(index) for index in indices]
        atoms = np.concatenate([np.arange(self.first[i], self.first[i + 1]) for i in chosen])
        return PairSet(
            [self.ids[i] for i in chosen],
            [self.sources[i] for i in chosen],
            np.concatenate([[0], np.cumsum(self.sizes[chosen])]),
            self.numbers[atoms],
            self.fractions[:, atoms],
            self.lattices[:, chosen],
            [self.functionals[i] for i in chosen],
            [self.groups[i] for i in chosen],
        )


def join_pairs(parts: Sequence[PairSet]) -> PairSet:
    """All pairs of `parts`, in order."""
    if len(parts) == 1:
        return parts[0]
    sizes = np.concatenate([part.sizes for part in parts])
    return PairSet(
        [name for part in parts for name in part.ids],
        [name for part in parts for name in part.sources],
        np.concatenate([[0], np.cumsum(sizes)]),
        np.concatenate([part.numbers for part in parts]),
        np.concatenate([part.fractions for part in parts], axis=1),
        np.concatenate([part.lattices for part in parts], axis=1),
        [name for part in parts for name in part.functionals],
        [name for part in parts for name in part.groups],
    )


def balance_sources(pairs: PairSet, shares: Mapping[str, float]) -> PairSet:
    """The pairs, some repeated, so that an epoch has given shares of some sources.

    Parameters
    ----------
    shares
        By source; the other sources have what is left, each pair of them equally often. Shares are met as nearly as
        whole repetitions allow.

    Raises
    ------
    ConfigError
        When no pair has a named source, or the shares leave nothing for the others.
    """
    if not shares:
        return pairs
    counts = Counter(pairs.sources)
    if missing := sorted(shares.keys() - counts.keys()):
        raise ConfigError(f"data.shares names {missing[0]!r}, and the pairs are of {', '.join(sorted(counts))}")
    n_others = sum(count for source, count in counts.items() if source not in shares)
    left = 1.0 - sum(shares.values())
    if n_others and left <= 0:
        raise ConfigError(f"data.shares add up to {1 - left:g}; the other sources need a rest, so lower them")
    weights = {source: share / counts[source] for source, share in shares.items()}
    other = left / n_others if n_others else max(weights.values())
    least = min(other, *weights.values())
    repeats = [round(weights.get(source, other) / least) for source in pairs.sources]
    return pairs.select([index for index, number in enumerate(repeats) for _ in range(number)])


def identify_pairs(pairs: PairSet) -> str:
    """Content hash of pairs in their order: first 16 hex digits of a sha256."""
    digest = hashlib.sha256()
    names = (pairs.ids, pairs.sources, pairs.functionals)
    digest.update(json.dumps(names, separators=(",", ":")).encode())
    for array in (pairs.first, pairs.numbers, pairs.fractions, pairs.lattices):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:ID_LENGTH]


def check_functionals(pairs: PairSet, allowed: Sequence[str] | None) -> None:
    """Refuse relaxed sides of functionals that are not allowed to be mixed: their minima differ.

    Parameters
    ----------
    allowed
        Functionals that may occur together; None: any single one.

    Raises
    ------
    ConfigError
        When there are others, or more than one.
    """
    counts = Counter(map(spell_functional, pairs.functionals))
    found = ", ".join(f"{name} ({count} pairs)" for name, count in sorted(counts.items()))
    if allowed is None and len(counts) > 1:
        raise ConfigError(
            f"the pairs were relaxed with different functionals: {found}; leave some out, or allow them to be "
            f"mixed with data.functionals: {json.dumps(sorted(counts))}"
        )
    if allowed is not None and (others := sorted(counts.keys() - set(map(spell_functional, allowed)))):
        raise ConfigError(
            f"pairs of {', '.join(others)} are not among data.functionals {json.dumps(list(allowed))} "
            f"(found: {found}); leave them out or add them there"
        )


def list_elements(pairs: PairSet, at_least: int = 10) -> list[int]:
    """Atomic numbers that occur in `at_least` pairs; all that occur where there are fewer pairs than 100 times that."""
    counts = np.zeros(MAX_Z + 1, dtype=np.int64)
    for index in range(len(pairs)):
        counts[np.unique(pairs[index].numbers)] += 1
    return [int(number) for number in np.flatnonzero(counts >= (at_least if len(pairs) >= 100 * at_least else 1))]
