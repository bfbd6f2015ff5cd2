"""Augment pairs: other starts for the same relaxed crystal."""

from __future__ import annotations

import numpy as np

from e3relax_flows.schemas.training import Augmentation
from e3relax_flows.train.pairs import Array, Pair

MAX_PATH = 1.2  # largest distance of a new start, in distances of the pair's own start


def vary_pair(pair: Pair, how: Augmentation, rng: np.random.Generator) -> Pair:
    """A sample made from `pair`; the relaxed side does not change."""
    if how.path and rng.random() < how.path:
        pair = _move_start(pair, MAX_PATH * rng.random())
    kind = rng.random()
    if kind < how.identity:
        return pair._replace(initial_fractions=pair.relaxed_fractions, initial_lattice=pair.relaxed_lattice)
    if kind < how.identity + how.near:
        start, lattice = pair.relaxed_fractions, pair.relaxed_lattice
        strain, noise = how.near_strain * rng.random(), how.near_noise * rng.random()
    else:
        start, lattice = pair.initial_fractions, pair.initial_lattice
        # half of the starts stay exact, so that symmetric crystals are included
        strain, noise = rng.integers(2) * np.array([how.jitter_strain, how.jitter_noise])
    strains = rng.normal(size=(3, 3)) * strain
    varied = _scale(lattice @ (np.eye(3) + 0.5 * (strains + strains.T)), how, rng)
    shifts = rng.normal(size=start.shape) * noise
    return pair._replace(initial_fractions=start + shifts @ np.linalg.inv(varied), initial_lattice=varied)


def _scale(lattice: Array, how: Augmentation, rng: np.random.Generator) -> Array:
    if rng.random() >= how.volume_share:
        return lattice
    return lattice * (1.0 + how.volume_jitter * rng.uniform(-1.0, 1.0)) ** (1 / 3)


def _move_start(pair: Pair, part: float) -> Pair:
    """The same pair from a start at the fraction `part` of its own distance, so that errors of all sizes occur."""
    return pair._replace(
        initial_fractions=pair.relaxed_fractions + part * (pair.initial_fractions - pair.relaxed_fractions),
        initial_lattice=pair.relaxed_lattice + part * (pair.initial_lattice - pair.relaxed_lattice),
    )
