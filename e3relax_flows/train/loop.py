"""The training loop: sample, vary, step, average, validate, save; resumes where it was stopped."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor

from e3relax_flows.core.errors import ConfigError
from e3relax_flows.graphs.batching import CrystalBatch, pack_crystals, plan_batches
from e3relax_flows.graphs.devices import resolve_device
from e3relax_flows.model import network as _network  # noqa: F401  registers its kind
from e3relax_flows.model import released as _released  # noqa: F401
from e3relax_flows.model.interface import Layer, RelaxationNetwork
from e3relax_flows.model.losses import compute_loss
from e3relax_flows.train.checkpoint import read_checkpoint, write_checkpoint
from e3relax_flows.train.config import TrainConfig
from e3relax_flows.train.dataset import Pair, PairSet, load_pairs
from e3relax_flows.train.metrics import METRICS, measure_pair, summarize_by_source

CHECKPOINT_FILE, LOG_FILE = "last.ckpt", "log.jsonl"


class Sample(NamedTuple):
    """A batch with its targets."""

    batch: CrystalBatch
    fractions: Tensor  # [n_atoms, 3] relaxed
    lattices: Tensor  # [n_graphs, 3, 3] Å, relaxed
    pairs: list[Pair]


@dataclass
class Progress:
    """Where a run stands; part of its checkpoint."""

    step: int = 0
    epoch: int = 0
    batch: int = 0  # batches of this epoch already used
    seconds: float = 0.0
    best_score: float = math.inf
    best_step: int = -1


def make_sample(network: RelaxationNetwork, pairs: list[Pair]) -> Sample:
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
    )


def unpack_layer(layer: Layer, sample: Sample) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Fractional coordinates [n, 3] and lattice [3, 3] of each crystal of a batch."""
    positions = layer.positions.detach().cpu().numpy()
    lattices = layer.lattices.detach().cpu().numpy()
    first = 0
    for pair, lattice in zip(sample.pairs, lattices, strict=True):
        last = first + len(pair.numbers)
        yield np.linalg.solve(lattice.T, positions[first:last].T).T, lattice
        first = last


def plan_epoch(pairs: PairSet, max_atoms: int, seed: int, epoch: int) -> list[list[int]]:
    """Batches of one epoch: all pairs once, in an order that depends on seed and epoch alone."""
    order = np.random.default_rng([seed, epoch]).permutation(len(pairs))
    sizes = pairs.sizes[order]
    return [[int(order[i]) for i in batch] for batch in plan_batches([(int(n), 0) for n in sizes], max_atoms, 2**62)]


class Trainer:
    """One run: its network, averages, optimiser and progress, all in one checkpoint."""

    def __init__(self, config: TrainConfig) -> None:
        if config.threads:
            torch.set_num_threads(config.threads)
        torch.manual_seed(config.seed)
        self.config = config
        self.device = resolve_device(config.device)
        self.network = _build_network(config).to(self.device)
        self.average = _build_network(config).to(self.device)
        self.average.load_state_dict(self.network.state_dict())
        schedule = config.schedule
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=schedule.learning_rate, weight_decay=schedule.weight_decay
        )
        self.best = {key: value.clone() for key, value in self.average.state_dict().items()}
        self.progress = Progress()

    @property
    def fraction_done(self) -> float:
        """Share of the run that is behind, by steps or by hours, whichever is further."""
        schedule = self.config.schedule
        by_hours = self.progress.seconds / 3600 / schedule.max_hours if schedule.max_hours else 0.0
        return max(self.progress.step / schedule.max_steps, by_hours)

    def save(self) -> None:
        """Write the checkpoint."""
        write_checkpoint(
            self.config.out / CHECKPOINT_FILE,
            {
                "config": _describe(self.config),
                "network": self.network.state_dict(),
                "average": self.average.state_dict(),
                "best": self.best,
                "optimizer": self.optimizer.state_dict(),
                "progress": asdict(self.progress),
            },
        )

    def resume(self) -> bool:
        """Go on from the checkpoint in the run's folder, if there is one.

        Raises
        ------
        ConfigError
            When that checkpoint belongs to another configuration.
        """
        path = self.config.out / CHECKPOINT_FILE
        if not path.exists():
            return False
        state = read_checkpoint(path)
        mine = _describe(self.config)
        changed = [key for key in mine if mine[key] != state["config"].get(key)]
        if changed:
            raise ConfigError(
                f"{path} was made with another {', '.join(changed)}; restore the configuration or choose another `out`"
            )
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.best = state["best"]
        self.progress = Progress(**state["progress"])
        return True

    def step(self, sample: Sample) -> tuple[float, Layer]:
        """One optimiser step; gives the loss and the last layer's output."""
        schedule, progress = self.config.schedule, self.progress
        warmup = min(1.0, (progress.step + 1) / max(schedule.warmup_steps, 1))
        rate = schedule.learning_rate * warmup * 0.5 * (1 + math.cos(math.pi * min(self.fraction_done, 1.0)))
        for group in self.optimizer.param_groups:
            group["lr"] = max(rate, 1e-3 * schedule.learning_rate)
        layers = self.network(sample.batch.to(self.device))
        loss, _ = compute_loss(
            layers,
            sample.batch.to(self.device),
            sample.fractions.to(self.device),
            sample.lattices.to(self.device),
            self.config.loss,
        )
        self.optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), schedule.clip_norm)
        if not torch.isfinite(norm):
            raise FloatingPointError(
                f"the gradient is not finite at step {progress.step}; lower schedule.learning_rate "
                f"({schedule.learning_rate}) and start again from {self.config.out / CHECKPOINT_FILE}"
            )
        self.optimizer.step()
        progress.step += 1
        decay = min(schedule.ema_decay, (1 + progress.step) / (10 + progress.step))
        with torch.no_grad():
            for mean, value in zip(self.average.parameters(), self.network.parameters(), strict=True):
                mean.lerp_(value, 1.0 - decay)
        return float(loss.detach()), layers[-1]


def train_model(config: TrainConfig, on_progress: Callable[[dict[str, Any]], None] | None = None) -> Trainer:
    """Train until steps or hours are spent, resuming a run that was stopped in the same folder.

    `on_progress` gets every line of the log: step, loss, structures per second, share done, and, where a
    validation took place, errors by source.
    """
    trainer = Trainer(config)
    resumed = trainer.resume()
    pairs, val = load_pairs(config.data.train), load_pairs(config.data.val)
    chosen = np.random.default_rng(0).permutation(len(val))[: config.data.val_size]
    val_pairs, val_sources = [val[int(i)] for i in chosen], [val.sources[int(i)] for i in chosen]
    config.out.mkdir(parents=True, exist_ok=True)
    with (config.out / LOG_FILE).open("a") as log:

        def report(record: dict[str, Any]) -> None:
            log.write(json.dumps(record) + "\n")
            log.flush()
            if on_progress:
                on_progress(record)

        report({"event": "resume" if resumed else "start", "step": trainer.progress.step, "n_pairs": len(pairs)})
        if trainer.fraction_done < 1.0:
            _run(trainer, pairs, (val_pairs, val_sources), report)
            trainer.save()
    return trainer


def _run(
    trainer: Trainer, pairs: PairSet, val: tuple[list[Pair], list[str]], report: Callable[[dict[str, Any]], None]
) -> None:
    config, progress = trainer.config, trainer.progress
    saved = reported = time.perf_counter()
    losses: list[float] = []
    seen = 0
    while trainer.fraction_done < 1.0:
        batches = plan_epoch(pairs, config.data.max_atoms, config.seed, progress.epoch)
        own: Sample | None = None
        for indices in batches[progress.batch :]:
            started = time.perf_counter()
            rng = np.random.default_rng([config.seed, progress.epoch, progress.batch])
            sample = own or make_sample(
                trainer.network, [config.data.augmentation.vary(pairs[i], rng) for i in indices]
            )
            loss, output = trainer.step(sample)
            own = None if own or rng.random() >= config.data.own_output else _start_from_output(trainer, output, sample)
            progress.batch += 1
            progress.seconds += time.perf_counter() - started
            losses.append(loss)
            seen += len(sample.pairs)
            validates = progress.step % config.val_every == 0 or trainer.fraction_done >= 1.0
            if validates:
                _validate(trainer, val, report)
            now = time.perf_counter()
            if now - reported > 10:
                report(
                    {
                        "step": progress.step,
                        "epoch": progress.epoch,
                        "loss": float(np.mean(losses)),
                        "per_second": seen / (now - reported),
                        "done": trainer.fraction_done,
                    }
                )
                losses, seen, reported = [], 0, now
            # a start from the network's own output is not in the checkpoint: wait until it is used
            if own is None and (validates or now - saved > 60 * config.checkpoint_minutes):
                trainer.save()
                saved = now
            if trainer.fraction_done >= 1.0:
                return
        progress.epoch, progress.batch = progress.epoch + 1, 0


def _start_from_output(trainer: Trainer, output: Layer, sample: Sample) -> Sample:
    """The same targets, from where the network has just put the crystals: what a second pass will see."""
    starts = []
    for pair, (fractions, lattice) in zip(sample.pairs, unpack_layer(output, sample), strict=True):
        ratio = abs(np.linalg.det(lattice) / np.linalg.det(pair.relaxed_lattice))
        good = 0.5 < ratio < 2.0 and np.isfinite(fractions).all()
        starts.append(pair._replace(initial_fractions=fractions, initial_lattice=lattice) if good else pair)
    return make_sample(trainer.network, starts)


def _validate(trainer: Trainer, val: tuple[list[Pair], list[str]], report: Callable[[dict[str, Any]], None]) -> None:
    """Score the averaged weights against the identity; keep them if they are the best so far."""
    pairs, sources = val
    identity = np.array([measure_pair(p.initial_fractions, p.initial_lattice, p) for p in pairs])
    errors = np.concatenate(
        [apply_network(trainer.average, pairs[i : i + 32], trainer.device) for i in range(0, len(pairs), 32)]
    )
    ours, theirs = summarize_by_source(errors, sources), summarize_by_source(identity, sources)
    # the mean over sources and metrics of error over identity error: no source and no metric is bought with another
    ratios = {name: [ours[name][m] / max(theirs[name][m], 1e-6) for m in METRICS] for name in ours if name != "all"}
    score = float(np.mean(list(ratios.values())))
    if score < trainer.progress.best_score:
        trainer.progress.best_score, trainer.progress.best_step = score, trainer.progress.step
        trainer.best = {key: value.clone() for key, value in trainer.average.state_dict().items()}
    report(
        {
            "event": "validation",
            "step": trainer.progress.step,
            "score": score,
            "best": trainer.progress.best_score,
            "errors": ours,
            "over_identity": ratios,
        }
    )


def apply_network(network: RelaxationNetwork, pairs: list[Pair], device: torch.device) -> NDArray[np.float64]:
    """Errors [n_pairs, 3] of one application, in the order of METRICS."""
    sample = make_sample(network, pairs)
    with torch.inference_mode():
        layer = network(sample.batch.to(device))[-1]
    predictions = zip(pairs, unpack_layer(layer, sample), strict=True)
    return np.array([measure_pair(fractions, lattice, pair) for pair, (fractions, lattice) in predictions])


def _build_network(config: TrainConfig) -> RelaxationNetwork:
    try:
        return RelaxationNetwork.kinds[config.kind].from_config(config.network)
    except ValidationError as error:
        lines = "; ".join(f"network.{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ConfigError(f"{lines}; see configs/train.yaml") from error


def _describe(config: TrainConfig) -> dict[str, Any]:
    """What must not change between restarts."""
    return config.model_dump(mode="json", exclude={"out", "name", "threads", "device", "checkpoint_minutes"})
