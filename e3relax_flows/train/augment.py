"""Training samples made from pairs: other starts for the same relaxed crystal."""

from __future__ import annotations

import numpy as np
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from e3relax_flows.train.pairs import Array, Pair

MAX_PATH = 1.2  # how far away a start is put at most, in distances of the pair's own start


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Augmentation:
    """How starts differ from those in the data, so that good starts are left alone and noisy ones mended."""

    identity: float = 0.1  # share of samples that start at the relaxed structure
    near: float = 0.1  # share that start at the relaxed structure with strain and noise
    near_strain: float = 0.03  # standard deviation of that strain's components
    near_noise: float = 0.05  # Å, standard deviation of that noise per component
    jitter_strain: float = 0.01  # the same, for the other samples
    jitter_noise: float = 0.01  # Å
    path: float = 0.0  # share of samples whose start is moved along the way to the relaxed structure, or beyond it
    volume_share: float = 0.0  # share of samples, of those that do not start at the relaxed structure, ...
    volume_jitter: float = 0.15  # ... whose start is scaled to a volume up to this much smaller or larger

    def vary(self, pair: Pair, rng: np.random.Generator) -> Pair:
        """A sample made from `pair`; the relaxed side stays as it is."""
        if self.path and rng.random() < self.path:
            pair = _move_start(pair, MAX_PATH * rng.random())
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
        varied = self._scale(lattice @ (np.eye(3) + 0.5 * (strains + strains.T)), rng)
        shifts = rng.normal(size=start.shape) * noise
        return pair._replace(initial_fractions=start + shifts @ np.linalg.inv(varied), initial_lattice=varied)

    def _scale(self, lattice: Array, rng: np.random.Generator) -> Array:
        if rng.random() >= self.volume_share:
            return lattice
        return lattice * (1.0 + self.volume_jitter * rng.uniform(-1.0, 1.0)) ** (1 / 3)


def _move_start(pair: Pair, part: float) -> Pair:
    """The same pair from a start that is `part` of its own distance away: errors of every size, each a real one."""
    return pair._replace(
        initial_fractions=pair.relaxed_fractions + part * (pair.initial_fractions - pair.relaxed_fractions),
        initial_lattice=pair.relaxed_lattice + part * (pair.initial_lattice - pair.relaxed_lattice),
    )
