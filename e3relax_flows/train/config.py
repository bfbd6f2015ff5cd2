"""What a training run is told: data, network, schedule; read from YAML, unknown keys refused."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from e3relax_flows.core.errors import ConfigError
from e3relax_flows.model.losses import LossWeights
from e3relax_flows.train.dataset import Augmentation


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DataConfig(_Section):
    """Files of pairs, and how starts are varied."""

    train: list[Path] = Field(description="pair files (.jsonl, .jsonl.gz)")
    val: list[Path] = Field(description="pair files that choose the best weights")
    val_size: int = Field(600, ge=1, description="pairs of `val` that are scored during training")
    max_atoms: int = Field(320, ge=1, description="atoms in a batch")
    augmentation: Augmentation = Field(default_factory=lambda: Augmentation())
    own_output: float = Field(0.1, ge=0, le=1, description="share of steps that start from the network's own output")


class ScheduleConfig(_Section):
    """Steps and learning rate; what ends first, steps or hours, ends the run."""

    max_steps: int = Field(20000, ge=1)
    max_hours: float | None = Field(None, gt=0, description="wall time over all restarts")
    learning_rate: float = Field(1.5e-3, gt=0, description="at its peak; decays by half a cosine")
    warmup_steps: int = Field(300, ge=0)
    weight_decay: float = Field(1e-3, ge=0)
    clip_norm: float = Field(5.0, gt=0)
    ema_decay: float = Field(0.999, ge=0, lt=1)


class TrainConfig(_Section):
    """A training run."""

    out: Path = Field(description="folder of checkpoints, log and the exported model")
    name: str = Field("trained", description="name of the exported model")
    data: DataConfig
    kind: Literal["e3relax_h2", "released"] = "e3relax_h2"
    network: dict[str, Any] = Field(default_factory=dict, description="sizes of the network; unnamed ones as usual")
    loss: LossWeights = Field(default_factory=lambda: LossWeights())
    schedule: ScheduleConfig = Field(default_factory=lambda: ScheduleConfig())
    seed: int = 0
    device: str = "cpu"
    threads: int | None = Field(None, ge=1, description="torch threads; none: as torch decides")
    checkpoint_minutes: float = Field(5.0, gt=0)
    val_every: int = Field(1000, ge=1, description="steps between validations")


def load_train_config(path: Path) -> TrainConfig:
    """Read a YAML file; relative paths are taken from the file's folder.

    Raises
    ------
    ConfigError
        When the file is unreadable, a key unknown or a value out of range.
    """
    try:
        raw = yaml.safe_load(path.read_text())
        config = TrainConfig.model_validate(raw)
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: {error}") from error
    except ValidationError as error:
        lines = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ConfigError(f"{path}: {lines}; see configs/train.yaml for all keys") from error
    base = path.parent

    def locate(file: Path) -> Path:
        return Path(os.path.normpath(base / file))

    data = config.data.model_copy(
        update={"train": [locate(p) for p in config.data.train], "val": [locate(p) for p in config.data.val]}
    )
    return config.model_copy(update={"data": data, "out": locate(config.out)})
