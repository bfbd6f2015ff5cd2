"""Estimate the time of a training from a few of its steps on this machine."""

from __future__ import annotations

import time

import numpy as np

from e3relax_flows.schemas.training import TrainConfig
from e3relax_flows.train.pairs import PairSet
from e3relax_flows.train.samples import make_sample
from e3relax_flows.train.trainer import Trainer

N_STEPS = 3


def estimate_hours(config: TrainConfig, pairs: PairSet, seed: int = 0) -> float:
    """Hours that a training takes on this device; at most its limit. Validation is not counted.

    Parameters
    ----------
    config
        The training; nothing is written into its folder.
    pairs
        Some of the pairs to train on.
    """
    trainer = Trainer(config)
    drawn = np.random.default_rng(seed).permutation(len(pairs))
    many = np.tile(drawn, -(-config.data.max_atoms // int(pairs.sizes.sum())))
    fitting = many[np.cumsum(pairs.sizes[many]) <= config.data.max_atoms]
    chosen = fitting if len(fitting) else many[:1]
    began = 0.0
    for step in range(1 + N_STEPS):
        if step == 1:  # the first one is slower
            began = time.perf_counter()
        trainer.step(make_sample(trainer.network, [pairs[int(index)] for index in chosen]))
    hours = (time.perf_counter() - began) / N_STEPS * config.schedule.max_steps / 3600
    return min(hours, config.schedule.max_hours or hours)
