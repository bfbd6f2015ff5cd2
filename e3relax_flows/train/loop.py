"""The training loop: sample, augment, step, average, validate, save; one run per folder, on all its ranks."""

from __future__ import annotations

import fcntl
import logging
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from e3relax_flows.core.errors import ConfigError
from e3relax_flows.model.interface import Layer, RelaxationNetwork
from e3relax_flows.schemas.training import DataConfig, FinetuneConfig, TrainConfig
from e3relax_flows.train.checkpoint import CHECKPOINT_FILE, find_checkpoint
from e3relax_flows.train.dataset import load_pairs
from e3relax_flows.train.distributed import World, join_world
from e3relax_flows.train.finetune import check_start, read_start
from e3relax_flows.train.pairs import PairSet, balance_sources, check_functionals, identify_pairs, join_pairs
from e3relax_flows.train.progress import LOG_FILE, Listener, Meter, RunLog
from e3relax_flows.train.sampler import OWN_STREAM, BatchLimits, ShareSampler, make_rng
from e3relax_flows.train.samples import Sample, SampleSet, count_edges, make_loader, start_from_output
from e3relax_flows.train.stopping import StopRequest, find_deadline
from e3relax_flows.train.trainer import Trainer, build_network
from e3relax_flows.train.validation import Score, Validation

LOCK_FILE = ".lock"
SHOWN_PAIRS = 3  # of those with predictions that are not finite

__all__ = ["CHECKPOINT_FILE", "LOG_FILE", "Trainer", "train_model"]

logger = logging.getLogger(__name__)


class RunData(NamedTuple):
    """The pairs of a run and their hashes."""

    train: PairSet
    val: PairSet
    hashes: dict[str, str]


def load_data(config: DataConfig, world: World) -> RunData:
    """Read the pairs; every rank holds all of them, since an epoch is planned over all.

    Raises
    ------
    ConfigError
        When files cannot be read, functionals are mixed that are not allowed to be, or ranks read different pairs.
    """
    train, val = load_pairs(config.train), load_pairs(config.val)
    check_functionals(join_pairs([train, val]), config.functionals)
    hashes = {"train": identify_pairs(train), "val": identify_pairs(val)}
    if (of_first := world.broadcast(lambda: hashes)) != hashes:
        raise ConfigError(
            f"rank {world.rank} reads other pairs ({hashes}) than the first rank ({of_first}); give all the same files"
        )
    return RunData(balance_sources(train, config.shares), val, hashes)


def train_model(config: TrainConfig, on_progress: Listener | None = None, world: World | None = None) -> Trainer:
    """Train until steps or hours are spent, resuming a run that was stopped in the same folder.

    A run that is stopped by a signal or by its walltime is saved first; `Trainer.stopped` then holds the reason.

    Parameters
    ----------
    on_progress
        Called on the first rank with every record of the log: step, loss, errors over the identity's, structures per
        second, share done, seconds left; or an event, such as a validation with its errors by source.
    world
        The ranks that train together, from `join_world`; None: only this process.

    Raises
    ------
    ConfigError
        When the configuration, or its difference to that of the checkpoint, does not allow the run.
    ModelError
        When a checkpoint or the weights to start from cannot be used.
    """
    trainer = Trainer(config, world)
    world = trainer.world
    with ExitStack() as held:
        world.broadcast(lambda: held.enter_context(lock_run(config.out)))
        _train(trainer, on_progress)
    return trainer


def _train(trainer: Trainer, on_progress: Listener | None) -> None:
    """Train in the folder of this run, which is locked."""
    config, world = trainer.config, trainer.world
    logger.info("training in %s: begins, rank %d of %d on %s", config.out, world.rank, world.size, world.device)
    found = world.broadcast(lambda: find_checkpoint(config.out))
    data = load_data(config.data, world)
    trainer.data = dict(data.hashes)
    if found:
        trainer.restore(found)
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if config.precision == "tf32" else "highest")
    try:
        with (
            StopRequest(find_deadline(config.walltime_hours, config.stop_minutes)) as stop,
            RunLog(config.out if world.is_first else None, config.log, trainer.progress.step, on_progress) as log,
        ):
            if found and found.warning:
                log.write({"event": "warning", "step": trainer.progress.step, "message": found.warning})
            log.write(
                {
                    "event": "resume" if found else "start",
                    "step": trainer.progress.step,
                    "n_pairs": len(data.train),
                    "sources": dict(Counter(data.train.sources)),
                    "functionals": dict(Counter(data.train.functionals)),
                    "data": data.hashes,
                    "world_size": world.size,
                }
            )
            if trainer.fraction_done < 1.0:
                _Run(trainer, data, log, stop).go(is_new=not found)
            step, reason = trainer.progress.step, trainer.stopped
            logger.info(
                "training in %s: %s at step %d", config.out, f"stopped by {reason}" if reason else "finished", step
            )
    finally:
        torch.set_float32_matmul_precision(precision)


class _Run:
    """The loop of one process start."""

    def __init__(self, trainer: Trainer, data: RunData, log: RunLog, stop: StopRequest) -> None:
        self.trainer, self.log, self.stop = trainer, log, stop
        self.config, self.world, self.progress = trainer.config, trainer.world, trainer.progress
        self.network, self.ids = _build_for_graphs(self.config), data.train.ids
        self.validation = Validation(self.config.data, data.val, self.network, self.world)
        sizes = _measure_sizes(self.network, data.train, self.world)
        limits = BatchLimits(self.config.data.max_atoms, self.config.data.most_edges)
        ranks = self.world.rank, self.world.size
        self.sampler = ShareSampler(sizes, limits, self.config.data.buckets, self.config.seed, ranks)
        samples = SampleSet(self.network, data.train, self.config.data.augmentation, self.config.seed)
        self.loader = make_loader(samples, self.sampler, self.config.data.workers)
        self.meter = Meter(trainer.fraction_done)
        self.saved = time.perf_counter()
        self.clock = self.saved - self.progress.seconds
        self.is_due = False  # whether there is progress to save
        self.reason: str | None = None

    def go(self, is_new: bool) -> None:
        """Train to the end or to the first reason to stop."""
        if is_new and self.config.finetune:
            self._check_start(self.config.finetune)
        while self.trainer.fraction_done < 1.0:
            self.sampler.set_epoch(self.progress.epoch, self.progress.batch)
            for sample in self.loader:
                self._use(sample)
                self.progress.batch += 1
                if self.trainer.fraction_done >= 1.0 or self.reason:
                    self._end()
                    return
                if self.is_due or time.perf_counter() - self.saved > 60 * self.config.checkpoint_minutes:
                    self._save()
            self.progress.epoch, self.progress.batch = self.progress.epoch + 1, 0

    def _use(self, sample: Sample) -> None:
        """A step on a batch and, by chance, steps from the network's own output; a checkpoint never separates them."""
        rng = make_rng(OWN_STREAM, self.config.seed, self.progress.epoch, self.progress.batch)
        n_own = self.config.data.own_output_steps if rng.random() < self.config.data.own_output else 0
        n_crystals = len(self.sampler.batches[self.progress.batch])
        for number in range(1 + n_own):
            output = self.trainer.step(sample)
            stats = self._share_stats(output.stats)
            if output.is_skipped:
                self._note_skipped(output.layer, sample)
            else:
                self.meter.add(stats, n_crystals)
            if self.progress.step % self.config.val_every == 0 or self.trainer.fraction_done >= 1.0:
                self._validate()
            if self.meter.waiting > self.config.log.every_seconds:
                self._report()
            if self.trainer.fraction_done >= 1.0 or output.is_skipped:
                return
            if number < n_own:
                sample = start_from_output(self.network, output.layer, sample)

    def _note_skipped(self, layer: Layer, sample: Sample) -> None:
        """Log a step that changed nothing, and the pairs of this rank whose predictions are not finite."""
        indices = sample.share.indices if sample.share else []
        is_finite = torch.isfinite(layer.lattices).all(dim=2).all(dim=1).tolist()
        names = [self.ids[i] for i, is_good in zip(indices, is_finite, strict=False) if not is_good][:SHOWN_PAIRS]
        message = "the gradient is not finite, so that the step is skipped" + (
            f"; look at the starts of these pairs: {', '.join(names)}" if names else ""
        )
        self.log.write({"event": "skipped", "step": self.progress.step, "message": message})
        logger.warning("training in %s, step %d: %s", self.trainer.config.out, self.progress.step, message)

    def _share_stats(self, stats: torch.Tensor) -> list[float]:
        """Means over the global batch; the first rank's clock and a stop request of any rank apply to all."""
        seconds = time.perf_counter() - self.clock if self.world.is_first else 0.0
        reason = self.stop.reason
        if self.world.size == 1:
            self.progress.seconds, self.reason = seconds, reason
            return [float(value) for value in stats.tolist()]
        own = torch.tensor([seconds, float(reason is not None)], dtype=torch.float64, device=stats.device)
        *values, self.progress.seconds, wishes = self.world.sum_values(torch.cat([stats, own])).tolist()
        if wishes:
            self.reason = reason or "another rank"
        return [float(value) for value in values]

    def _check_start(self, settings: FinetuneConfig) -> None:
        """Score the weights to start from before they are changed, so that the best is never worse than them."""
        start = self.world.broadcast(lambda: read_start(settings, self.trainer.network))
        self.trainer.load_start(start.weights)
        score = self.validation.score(self.trainer.average)
        message = check_start(start, score, self.validation.id, settings.accept_worse)
        self.log.write({"event": "finetune", "step": 0, "message": f"{start.origin} {message}"})
        self._keep(score)

    def _validate(self) -> None:
        self._keep(self.validation.score(self.trainer.average))
        self.is_due = True

    def _keep(self, score: Score) -> None:
        self.trainer.keep_best(score.score, self.validation.id)
        self.log.write(
            {
                "event": "validation",
                "step": self.progress.step,
                "score": score.score,
                "best": self.progress.best_score,
                "errors": score.errors,
                "over_identity": score.ratios,
            }
        )

    def _report(self) -> None:
        position = {"step": self.progress.step, "epoch": self.progress.epoch}
        self.log.write(position | self.meter.report(self.trainer.fraction_done))

    def _save(self) -> None:
        self.trainer.save()
        self.saved, self.is_due = time.perf_counter(), False

    def _end(self) -> None:
        if self.meter.n_steps:
            self._report()
        self._save()
        if self.trainer.fraction_done >= 1.0:
            self.log.write({"event": "end", "step": self.progress.step, "seconds": self.progress.seconds})
        else:
            self.trainer.stopped = self.reason
            self.log.write({"event": "stop", "step": self.progress.step, "reason": self.reason})


def _build_for_graphs(config: TrainConfig) -> RelaxationNetwork:
    """A network on the CPU, used only to build edges."""
    with torch.random.fork_rng(devices=[]):
        return build_network(config)


def _measure_sizes(network: RelaxationNetwork, pairs: PairSet, world: World) -> NDArray[np.int64]:
    """Numbers of atoms and edges [n_pairs, 2]; every rank counts the edges of its part."""
    sizes = np.stack([pairs.sizes, np.zeros(len(pairs), dtype=np.int64)], axis=1)
    mine = range(world.rank, len(pairs), world.size)
    sizes[world.rank :: world.size, 1] = count_edges(network, [pairs[index] for index in mine])
    counted = world.sum_values(torch.from_numpy(sizes[:, 1].astype(np.float64)))
    sizes[:, 1] = counted.numpy().astype(np.int64)
    return sizes


@contextmanager
def lock_run(folder: Path) -> Iterator[None]:
    """Lock a run's folder against other trainings; the operating system releases the lock when the process ends.

    Raises
    ------
    ConfigError
        When another process trains there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK_FILE).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                f"another process trains in {folder}; wait for it, stop it, or choose another `out`"
            ) from error
        yield


@dataclass(frozen=True)
class Launch:
    """Result of a run on this rank."""

    trainer: Trainer
    is_first: bool  # whether this rank prints and exports

    @property
    def is_stopped(self) -> bool:
        """Whether the run was stopped before its end and should be started again."""
        return self.trainer.stopped is not None


def launch_training(config: TrainConfig, on_progress: Listener | None = None) -> Launch:
    """Train on the ranks that torchrun or srun started, or alone; the process group is closed on return."""
    with join_world(config.device) as world:
        trainer = train_model(config, on_progress, world)
    return Launch(trainer, world.is_first)
