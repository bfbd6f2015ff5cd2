"""State of one run: network, moving average, optimiser, progress; its steps, and saving and loading of checkpoints."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from e3relax_flows.core.errors import ConfigError
from e3relax_flows.graphs.devices import resolve_device
from e3relax_flows.model import network as _network  # noqa: F401  registers its kind
from e3relax_flows.model import released as _released  # noqa: F401
from e3relax_flows.model.interface import Layer, RelaxationNetwork
from e3relax_flows.model.losses import compute_loss, measure_deviations
from e3relax_flows.schemas.training import TrainConfig, find_changes
from e3relax_flows.train.checkpoint import (
    CHECKPOINT_FILE,
    FoundCheckpoint,
    complete_weights,
    find_checkpoint,
    write_checkpoint,
)
from e3relax_flows.train.distributed import World
from e3relax_flows.train.finetune import read_sizes
from e3relax_flows.train.optimizers import RunOptimizer
from e3relax_flows.train.pairs import PairSet
from e3relax_flows.train.samples import Sample, make_sample

N_STEPS = 3

LEAST_RATE = 1e-3  # of the peak's learning rate
MOST_SKIPPED = 10  # steps in a row without a finite gradient, after which the weights or all pairs are wrong
STATS = ("loss", "displacement", "strain", "volume", "displacement_0", "strain_0", "volume_0")

logger = logging.getLogger(__name__)


@dataclass
class TrainingProgress:
    """Progress of a run; part of its checkpoint."""

    step: int = 0
    epoch: int = 0
    batch: int = 0  # batches of this epoch already used
    seconds: float = 0.0
    best_score: float = math.inf
    best_step: int = -1


class StepOutput(NamedTuple):
    """Result of one step."""

    stats: Tensor  # [7] float64, STATS of this rank's crystals times its weight: to be summed over ranks
    layer: Layer
    is_skipped: bool  # the gradient is not finite, so that the weights stay


class Trainer:
    """One run: its network, averages, optimiser and progress, all in one checkpoint.

    Parameters
    ----------
    world
        The ranks that train together; None: only this process, on the device of the configuration.

    Raises
    ------
    ConfigError
        When the device or a size of the network cannot be used.
    """

    def __init__(self, config: TrainConfig, world: World | None = None) -> None:
        if config.threads:
            torch.set_num_threads(config.threads)
        torch.manual_seed(config.seed)
        self.config = config
        self.world = world or World(resolve_device(config.device))
        self.network = build_network(config).to(self.device)
        self.average = build_network(config).to(self.device)
        self.average.load_state_dict(self.network.state_dict())
        self.average.eval()
        self.parameters = self._choose_parameters()
        trained = {name: p for name, p in self.network.named_parameters() if p.requires_grad}
        self.optimizer = RunOptimizer(trained, config.schedule)
        self.best = {key: value.clone() for key, value in self.average.state_dict().items()}
        self.progress = TrainingProgress()
        self.data: dict[str, str | None] = {"train": None, "val": None}  # hashes of the pairs
        self.validation: str | None = None  # hash of the pairs that gave the best score
        self.last_is_damaged = False  # so that the previous checkpoint must be kept until the next is written
        self.stopped: str | None = None  # why the run was stopped before its end
        self.n_skipped = 0  # steps in a row

    @property
    def device(self) -> torch.device:
        """Device of the network."""
        return self.world.device

    @property
    def fraction_done(self) -> float:
        """Finished share of the run, by steps or by hours, whichever is larger."""
        schedule = self.config.schedule
        by_hours = self.progress.seconds / 3600 / schedule.max_hours if schedule.max_hours else 0.0
        return max(self.progress.step / schedule.max_steps, by_hours)

    def describe_config(self) -> dict[str, Any]:
        """The configuration that must not change between restarts."""
        return self.config.describe(self.network.config.model_dump(mode="json"))

    def save(self) -> None:
        """Write the checkpoint; the first rank does."""
        if not self.world.is_first:
            return
        write_checkpoint(
            self.config.out / CHECKPOINT_FILE,
            {
                "config": self.describe_config(),
                "data": self.data,
                "network": self.network.state_dict(),
                "average": self.average.state_dict(),
                "best": self.best,
                "optimizer": self.optimizer.name_moments(),
                "added": [],
                "progress": asdict(self.progress),
                "validation": self.validation,
                "rng": torch.get_rng_state(),
            },
            keep_previous=self.last_is_damaged,
        )
        logger.info("training in %s: checkpoint at step %d", self.config.out, self.progress.step)
        self.last_is_damaged = False

    def resume(self) -> bool:
        """Continue from the checkpoint in the run's folder, if there is one; `restore` on every rank.

        Raises
        ------
        ConfigError
            When that checkpoint belongs to another configuration.
        ModelError
            When there are checkpoints but none can be read.
        """
        found = self.world.broadcast(lambda: find_checkpoint(self.config.out))
        if found:
            self.restore(found)
        return found is not None

    def restore(self, found: FoundCheckpoint) -> None:
        """Load the state of a checkpoint of this configuration.

        Raises
        ------
        ConfigError
            When it belongs to another configuration, or to other data than `self.data`.
        """
        state = found.state
        self._check_config(found)
        for name, known in self.data.items():
            before = state["data"][name]
            if known and before and known != before:
                raise ConfigError(
                    f"{found.path} was made with other pairs in data.{name} (hash {before} -> {known}); restore the "
                    "old files, or choose another `out`"
                )
        fresh = self.network.state_dict()
        for network, name in ((self.network, "network"), (self.average, "average")):
            network.load_state_dict(complete_weights(state[name], fresh, state["added"]))
        best = complete_weights(state["best"], self.average.state_dict(), state["added"])
        self.best = {key: value.to(self.device, copy=True) for key, value in best.items()}
        self.optimizer.load_moments(state["optimizer"])
        self.progress = TrainingProgress(**state["progress"])
        self.validation = state["validation"]
        self.last_is_damaged = found.warning is not None
        logger.info("training in %s: resumed at step %d from %s", self.config.out, self.progress.step, found.path)
        if state["rng"] is not None:
            torch.set_rng_state(state["rng"])

    def _check_config(self, found: FoundCheckpoint) -> None:
        """Compare with the configuration of a checkpoint; keys that did not exist then had today's defaults."""
        mine = self.describe_config()
        theirs = dict(found.state["config"])
        network = self.network.config_class.model_validate(theirs["network"]).model_dump(mode="json")
        # required entries that `describe` leaves out
        theirs |= {"out": ".", "data": theirs["data"] | {"train": [], "val": []}}
        if theirs.get("finetune"):
            theirs["finetune"] = theirs["finetune"] | {"path": "."}
        complete = TrainConfig.model_validate(theirs)
        changes = find_changes(complete.describe(network), mine)
        if not changes:
            return
        advice = "restore the configuration, or choose another `out`"
        if any(change.startswith("schedule.") for change in changes):
            advice += f"; to continue with another schedule, start there with finetune: {{path: {found.path}}}"
        raise ConfigError(f"{found.path} was made with another configuration: {'; '.join(changes)}; {advice}")

    def load_start(self, weights: dict[str, Tensor]) -> None:
        """Start from these weights instead of fresh ones."""
        self.network.load_state_dict(weights)
        self.average.load_state_dict(weights)
        self.best = {key: value.clone() for key, value in self.average.state_dict().items()}

    def step(self, sample: Sample) -> StepOutput:
        """One optimiser step on this rank's share of a batch.

        The loss is the mean over the crystals of all ranks. A gradient that is not finite changes no weight. Since
        all ranks have the same gradient, they skip the same steps, and its errors are raised on all of them.
        """
        self._set_rate()
        weight, scale = (sample.share.weight, sample.share.scale) if sample.share else (1.0, 1.0)
        moved = sample.to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
            layers = self.network(moved.batch)
        loss, errors = compute_loss(layers, moved.batch, moved.fractions, moved.lattices, self.config.loss)
        self.optimizer.zero_grad()
        (loss * (weight * scale)).backward()
        self.world.sum_gradients(self.parameters)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.config.schedule.clip_norm)
        is_skipped = not torch.isfinite(norm)
        self._count_skipped(is_skipped)
        if not is_skipped:
            self.optimizer.step()
        self.progress.step += 1
        self._average()
        with torch.no_grad():
            start = Layer(moved.batch.positions, moved.batch.lattices)
            identity = measure_deviations(start, moved.batch, moved.fractions, moved.lattices)
            means = [loss.detach(), *(value.mean() for value in (*errors, *identity))]
            stats = torch.stack([value.double() for value in means]) * weight
        return StepOutput(stats, layers[-1], is_skipped)

    def _set_rate(self) -> None:
        schedule = self.config.schedule
        warmup = min(1.0, (self.progress.step + 1) / max(schedule.warmup_steps, 1))
        rate = schedule.learning_rate * warmup * 0.5 * (1 + math.cos(math.pi * min(self.fraction_done, 1.0)))
        self.optimizer.set_rate(max(rate, LEAST_RATE * schedule.learning_rate))

    def _count_skipped(self, is_skipped: bool) -> None:
        """Count skipped steps in a row; one crystal that the network tears apart must not end a run."""
        self.n_skipped = self.n_skipped + 1 if is_skipped else 0
        if self.n_skipped == MOST_SKIPPED:
            raise ConfigError(
                f"the gradients of {MOST_SKIPPED} steps in a row, up to step {self.progress.step}, are not finite; "
                f"choose another `out` and a schedule.learning_rate below {self.config.schedule.learning_rate}, maybe "
                f"with finetune: {{path: {self.config.out / CHECKPOINT_FILE}}}"
            )

    def _average(self) -> None:
        decay = min(self.config.schedule.ema_decay, (1 + self.progress.step) / (10 + self.progress.step))
        update = get_ema_multi_avg_fn(decay)
        with torch.no_grad():
            update(list(self.average.parameters()), list(self.network.parameters()), self.progress.step)

    def keep_best(self, score: float, validation: str) -> bool:
        """Keep the averaged weights if they are the best so far."""
        self.validation = validation
        if score >= self.progress.best_score:
            return False
        self.progress.best_score, self.progress.best_step = score, self.progress.step
        self.best = {key: value.clone() for key, value in self.average.state_dict().items()}
        return True

    def _choose_parameters(self) -> list[torch.nn.Parameter]:
        """Parameters that are trained: all but those that `finetune.freeze` names."""
        prefixes = self.config.finetune.freeze if self.config.finetune else []
        names = [name for name, _ in self.network.named_parameters()]
        if unused := [prefix for prefix in prefixes if not any(name.startswith(prefix) for name in names)]:
            tops = sorted({name.partition(".")[0] for name in names})
            raise ConfigError(f"finetune.freeze {unused} names no parameter; they begin with {', '.join(tops)}")
        for name, parameter in self.network.named_parameters():
            parameter.requires_grad_(not name.startswith(tuple(prefixes)))
        chosen = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        if not chosen:
            raise ConfigError("finetune.freeze names every parameter; leave some to be trained")
        return chosen


def build_network(config: TrainConfig) -> RelaxationNetwork:
    """A network of the configuration's kind and sizes, with fresh weights, on the CPU.

    If no size is named, a fine-tuned network has the sizes of its start.

    Raises
    ------
    ConfigError
        When a size is unknown or out of range.
    ModelError
        When the start cannot be read.
    """
    try:
        return RelaxationNetwork.kinds[config.kind].from_config(_find_sizes(config))
    except ValidationError as error:
        lines = "; ".join(f"network.{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ConfigError(f"{lines}; see configs/train.yaml") from error


def _find_sizes(config: TrainConfig) -> dict[str, Any]:
    """Sizes as configured; none named: those of the run that is continued, or of the start of a fine-tuning."""
    if config.network or config.finetune is None:
        return config.network
    if found := find_checkpoint(config.out):
        known = found.state["config"]
        return dict(known["network"]) if known["kind"] == config.kind else {}
    return read_sizes(config.finetune, config.kind)


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
