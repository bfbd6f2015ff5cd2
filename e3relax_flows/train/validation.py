"""The score of weights on validation pairs: error over the identity's error, each rank computing its part."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from e3relax_flows.graphs.batching import plan_batches
from e3relax_flows.model.interface import RelaxationNetwork
from e3relax_flows.schemas.training import DataConfig
from e3relax_flows.train.distributed import World
from e3relax_flows.train.metrics import METRICS, measure_pair, summarize_by_source
from e3relax_flows.train.pairs import Pair, PairSet, identify_pairs
from e3relax_flows.train.sampler import BatchLimits
from e3relax_flows.train.samples import count_edges, make_sample, unpack_layer

LEAST_ERROR = 1e-6  # of the identity, below which a ratio has no meaning


class Score(NamedTuple):
    """Score of weights."""

    score: float  # mean over sources and metrics of error over the identity's error; the identity has 1
    errors: dict[str, dict[str, float]]  # by source and metric
    ratios: dict[str, list[float]]  # by source, in the order of METRICS


class Validation:
    """Validation pairs, chosen and batched once.

    A batch is computed whole by one rank, so that scores do not depend on their number.
    """

    def __init__(self, config: DataConfig, pairs: PairSet, network: RelaxationNetwork, world: World) -> None:
        chosen = np.random.default_rng(0).permutation(len(pairs))[: config.val_size]
        self.pairs = pairs.select(chosen.tolist())
        self.id = identify_pairs(self.pairs)
        self.network, self.world = network, world
        self.rows = [self.pairs[index] for index in range(len(self.pairs))]
        self.identity = np.array([measure_pair(p.initial_fractions, p.initial_lattice, p) for p in self.rows])
        edges = count_edges(network, self.rows)
        order = np.argsort(edges, kind="stable").tolist()
        limits = BatchLimits(config.max_atoms, config.most_edges)
        sizes = [(len(self.rows[index].numbers), edges[index]) for index in order]
        self.batches = [[order[index] for index in batch] for batch in plan_batches(sizes, *limits)]

    def score(self, network: RelaxationNetwork) -> Score:
        """Score the weights of `network`; the same on all ranks."""
        errors = np.zeros((len(self.rows), len(METRICS)))
        for batch in self.batches[self.world.rank :: self.world.size]:
            errors[batch] = self._measure(network, [self.rows[index] for index in batch])
        # every row is non-zero on one rank only, so the sum gathers all rows
        errors = self.world.sum_values(torch.from_numpy(errors)).numpy()
        ours = summarize_by_source(errors, self.pairs.sources)
        theirs = summarize_by_source(self.identity, self.pairs.sources)
        # the mean over sources and metrics, so that none dominates
        ratios = {
            name: [ours[name][metric] / max(theirs[name][metric], LEAST_ERROR) for metric in METRICS]
            for name in ours
            if name != "all"
        }
        return Score(float(np.mean(list(ratios.values()))), ours, ratios)

    def _measure(self, network: RelaxationNetwork, pairs: list[Pair]) -> NDArray[np.float64]:
        """Errors [n_pairs, 3] of one application, in the order of METRICS; infinite if it is not a crystal."""
        sample = make_sample(self.network, pairs)
        with torch.inference_mode():
            layer = network(sample.batch.to(self.world.device))[-1]
        try:
            predictions = list(zip(pairs, unpack_layer(layer, pairs), strict=True))
            return np.array([measure_pair(fractions, lattice, pair) for pair, (fractions, lattice) in predictions])
        except np.linalg.LinAlgError:  # a diverged network collapses or explodes cells
            return np.full((len(pairs), len(METRICS)), np.inf)
