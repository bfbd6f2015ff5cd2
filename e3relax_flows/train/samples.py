"""Batches of training samples: augment pairs, build graphs, pack; in this process or in workers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from e3relax_flows.graphs.batching import CrystalBatch, pack_crystals
from e3relax_flows.model.interface import Layer, RelaxationNetwork
from e3relax_flows.schemas.training import Augmentation
from e3relax_flows.train.pairs import Array, Pair, PairSet
from e3relax_flows.train.sampler import VARY_STREAM, Share, ShareSampler, make_rng

MAX_PATH = 1.2  # largest distance of a new start, in distances of the pair's own start

LEAST_VOLUME, LARGEST_VOLUME = 0.5, 2.0  # of the relaxed one, within which a start is still useful


@dataclass(frozen=True)
class Sample:
    """A batch with its targets, and its share of the global batch."""

    batch: CrystalBatch
    fractions: Tensor  # [n_atoms, 3] relaxed
    lattices: Tensor  # [n_graphs, 3, 3] Å, relaxed
    pairs: list[Pair]
    share: Share | None = None

    def to(self, device: torch.device) -> Sample:
        """The same sample on another device."""
        if device.type == "cpu":
            return self
        return replace(
            self, batch=self.batch.to(device), fractions=self.fractions.to(device), lattices=self.lattices.to(device)
        )


def make_sample(network: RelaxationNetwork, pairs: list[Pair], share: Share | None = None) -> Sample:
    """Build the graphs of `pairs` and pack them with their targets."""
    crystals = [
        network.build_crystal(pair.numbers, pair.initial_fractions @ pair.initial_lattice, pair.initial_lattice)
        for pair in pairs
    ]
    return Sample(
        pack_crystals(crystals),
        torch.from_numpy(np.concatenate([pair.relaxed_fractions for pair in pairs])),
        torch.from_numpy(np.stack([pair.relaxed_lattice for pair in pairs])),
        pairs,
        share,
    )


def count_edges(network: RelaxationNetwork, pairs: Sequence[Pair]) -> list[int]:
    """Numbers of edges from the initial sides, counted by building each graph: about 0.1 ms for ten atoms."""
    return [
        network.build_crystal(pair.numbers, pair.initial_fractions @ pair.initial_lattice, pair.initial_lattice).n_edges
        for pair in pairs
    ]


def unpack_layer(layer: Layer, pairs: Sequence[Pair]) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Fractional coordinates [n, 3] and lattice [3, 3] of each crystal of a batch."""
    positions = layer.positions.detach().double().cpu().numpy()
    lattices = layer.lattices.detach().double().cpu().numpy()
    first = 0
    for pair, lattice in zip(pairs, lattices, strict=True):
        last = first + len(pair.numbers)
        yield np.linalg.solve(lattice.T, positions[first:last].T).T, lattice
        first = last


def start_from_output(network: RelaxationNetwork, output: Layer, sample: Sample) -> Sample:
    """The same targets, starting from the network's output: the input of a second pass."""
    starts = []
    for pair, (fractions, lattice) in zip(sample.pairs, unpack_layer(output, sample.pairs), strict=True):
        ratio = abs(np.linalg.det(lattice) / np.linalg.det(pair.relaxed_lattice))
        good = LEAST_VOLUME < ratio < LARGEST_VOLUME and np.isfinite(fractions).all()
        starts.append(pair._replace(initial_fractions=fractions, initial_lattice=lattice) if good else pair)
    return make_sample(network, starts, sample.share)


class SampleSet(Dataset[Sample]):
    """Makes the sample of a share; the same on whichever rank or worker.

    Parameters
    ----------
    network
        On the CPU; only its `build_crystal` is used.
    """

    def __init__(self, network: RelaxationNetwork, pairs: PairSet, augmentation: Augmentation, seed: int) -> None:
        self.network = network
        self.pairs = pairs
        self.augmentation = augmentation
        self.seed = seed

    def __getitem__(self, share: Share) -> Sample:
        varied = [
            vary_pair(self.pairs[index], self.augmentation, make_rng(VARY_STREAM, self.seed, share.epoch, index))
            for index in share.indices
        ]
        return make_sample(self.network, varied, share)


def make_loader(samples: SampleSet, sampler: ShareSampler, n_workers: int) -> DataLoader[Sample]:
    """Samples in the sampler's order; iterate again after `set_epoch`."""
    return DataLoader(
        samples,
        batch_size=None,
        sampler=sampler,
        num_workers=n_workers,
        persistent_workers=n_workers > 0,
        generator=torch.Generator(),  # it must not use the random numbers of the run
    )


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
