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
from e3relax_flows.train.augment import vary_pair
from e3relax_flows.train.pairs import Pair, PairSet
from e3relax_flows.train.sampler import VARY_STREAM, Share, ShareSampler, make_rng

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
    """Samples in the sampler's order; iterate anew after `set_epoch`."""
    return DataLoader(
        samples,
        batch_size=None,
        sampler=sampler,
        num_workers=n_workers,
        persistent_workers=n_workers > 0,
        generator=torch.Generator(),  # it must not use the random numbers of the run
    )
