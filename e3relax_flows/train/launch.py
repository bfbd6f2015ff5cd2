"""Run a training from a command: join the other ranks, train, and return its exit code."""

from __future__ import annotations

from dataclasses import dataclass

from e3relax_flows.schemas.training import TrainConfig
from e3relax_flows.train.distributed import join_world
from e3relax_flows.train.loop import train_model
from e3relax_flows.train.progress import Listener
from e3relax_flows.train.trainer import Trainer


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
