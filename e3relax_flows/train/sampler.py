"""Assign crystals to batches of an epoch, and the crystals of a batch to ranks.

Everything here is a function of (seed, epoch, index) alone: neither the number of ranks nor earlier draws
change a batch, so that a run can be stopped anywhere and continued on any number of ranks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from e3relax_flows.graphs.batching import plan_batches

ORDER_STREAM, VARY_STREAM, OWN_STREAM = 1, 2, 3  # independent uses of random numbers


def make_rng(stream: int, seed: int, epoch: int, index: int = 0) -> np.random.Generator:
    """Random numbers of one use, for one pair or batch of one epoch."""
    return np.random.default_rng([stream, seed, epoch, index])


class Share(NamedTuple):
    """Share of one rank in a global batch."""

    epoch: int
    batch: int  # index of the global batch in its epoch
    indices: list[int]  # pairs
    weight: float  # share of the global batch's crystals; zero if the rank only takes part in the sums
    scale: float  # of the loss, so that every crystal of an epoch counts the same


class BatchLimits(NamedTuple):
    """Limits of one global batch, unless a single crystal is larger."""

    max_atoms: int
    max_edges: int


def split_batch(costs: Sequence[int], n_ranks: int) -> list[list[int]]:
    """Positions in a batch for each rank, with costs balanced by the largest-first rule."""
    parts: list[list[int]] = [[] for _ in range(n_ranks)]
    loads = [0] * n_ranks
    for position in sorted(range(len(costs)), key=lambda position: (-costs[position], position)):
        rank = loads.index(min(loads))
        parts[rank].append(position)
        loads[rank] += costs[position]
    return [sorted(part) for part in parts]


class ShareSampler(Sampler[Share]):
    """The global batches of an epoch, of each the share of one rank.

    Parameters
    ----------
    sizes
        [n_pairs, 2] numbers of atoms and of edges.
    buckets
        1: crystals of all sizes share a batch. More: the pairs are divided into that many groups of similar
        size, and a batch is of one group; the loss of a batch is then scaled by its number of crystals over the
        mean number, since large crystals would otherwise count more.
    """

    def __init__(
        self, sizes: NDArray[np.int64], limits: BatchLimits, buckets: int, seed: int, ranks: tuple[int, int] = (0, 1)
    ) -> None:
        self.sizes = sizes
        self.limits = limits
        self.buckets = buckets
        self.seed = seed
        self.rank, self.n_ranks = ranks
        self.set_epoch(0)

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Plan an epoch; its first `start` batches are left out."""
        self.epoch, self.start = epoch, start
        self.batches = self.plan()

    def plan(self) -> list[list[int]]:
        """Global batches of the epoch: all pairs once."""
        rng = make_rng(ORDER_STREAM, self.seed, self.epoch)
        order = rng.permutation(len(self.sizes))
        if self.buckets == 1:
            return self._cut(order)
        by_size = order[np.argsort(self.sizes[order, 1], kind="stable")]
        batches = [
            batch for group in np.array_split(by_size, self.buckets) for batch in self._cut(rng.permutation(group))
        ]
        return [batches[index] for index in rng.permutation(len(batches))]

    def _cut(self, order: NDArray[np.int64]) -> list[list[int]]:
        rows: list[tuple[int, int]] = list(map(tuple, self.sizes[order].tolist()))
        chosen = order.tolist()
        return [[chosen[index] for index in batch] for batch in plan_batches(rows, *self.limits)]

    def __len__(self) -> int:
        return len(self.batches) - self.start

    def __iter__(self) -> Iterator[Share]:
        mean = len(self.sizes) / len(self.batches)
        for index in range(self.start, len(self.batches)):
            batch = self.batches[index]
            scale = len(batch) / mean if self.buckets > 1 else 1.0
            mine = batch
            if self.n_ranks > 1:
                mine = [batch[i] for i in split_batch(self.sizes[batch, 1].tolist(), self.n_ranks)[self.rank]]
            # a rank without a crystal computes one with weight zero, to take part in the sums
            yield Share(self.epoch, index, mine or batch[:1], len(mine) / len(batch), scale)
