"""Configuration of a training run: data, network, schedule; read from YAML, unknown keys refused."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic.dataclasses import dataclass

from e3relax_flows.core.errors import ConfigError
from e3relax_flows.schemas.functionals import FunctionalName

# what may change when a run is continued: where it runs and how it is logged, not what is computed; files of
# pairs may be moved, since their content is compared
MAY_CHANGE: dict[str, bool | set[str]] = {
    "out": True,
    "name": True,
    "device": True,
    "threads": True,
    "precision": True,
    "checkpoint_minutes": True,
    "walltime_hours": True,
    "stop_minutes": True,
    "log": True,
    "data": {"train", "val", "workers", "functionals"},
    "finetune": {"path", "accept_worse"},
}


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class LossWeights:
    """Weights in the loss of an error of 1 Å, of strain 1 and of ln V = 1."""

    displacement: float = 1.0
    strain: float = 1.0
    volume: float = 0.5
    expected: float = 0.1  # of the errors that the network expects: a Laplace likelihood


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Augmentation:
    """How starts differ from those in the data, so that good starts are left alone and noisy ones corrected."""

    identity: float = 0.1  # share of samples that start at the relaxed structure
    near: float = 0.1  # share that start at the relaxed structure with strain and noise
    near_strain: float = 0.03  # standard deviation of that strain's components
    near_noise: float = 0.05  # Å, standard deviation of that noise per component
    jitter_strain: float = 0.01  # the same, for the other samples
    jitter_noise: float = 0.01  # Å
    path: float = 0.0  # share of samples whose start is moved along the way to the relaxed structure, or beyond it
    volume_share: float = 0.0  # share of samples, of those that do not start at the relaxed structure, ...
    volume_jitter: float = 0.15  # ... whose start is scaled to a volume up to this much smaller or larger


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DataConfig(_Section):
    """Pairs, how they are batched, and how starts are varied."""

    train: list[Path] = Field(description="pair files (.jsonl, .jsonl.gz), shards or folders of shards")
    val: list[Path] = Field(description="the same: pairs that choose the best weights")
    functionals: list[FunctionalName] | None = Field(
        None, description="that may occur together; none: only one may occur"
    )
    shares: dict[str, Annotated[float, Field(gt=0, lt=1)]] = Field(
        default_factory=dict, description="of an epoch, by source, met by repeated pairs; other sources share the rest"
    )
    val_size: int = Field(600, ge=1, description="pairs of `val` that are scored during training")
    max_atoms: int = Field(320, ge=1, description="atoms in a global batch, over all ranks")
    max_edges: int | None = Field(None, ge=1, description="edges in a global batch; none: 60 times `max_atoms`")
    buckets: int = Field(1, ge=1, description="groups of similar size whose crystals are not mixed; 1: all are mixed")
    workers: int = Field(0, ge=0, description="processes that build graphs ahead; 0: none, right for small batches")
    augmentation: Augmentation = Field(default_factory=lambda: Augmentation())
    own_output: float = Field(0.1, ge=0, le=1, description="chance that steps on the network's own output follow")
    own_output_steps: int = Field(1, ge=1, description="how many of them, each from the output of the last")

    @property
    def most_edges(self) -> int:
        """Edges in a global batch."""
        return self.max_edges or 60 * self.max_atoms


class ScheduleConfig(_Section):
    """Steps and learning rate; the run ends at the first limit that is reached."""

    max_steps: int = Field(20000, ge=1)
    max_hours: float | None = Field(None, gt=0, description="of training, over all restarts")
    optimizer: Literal["adamw", "muon"] = Field("adamw", description="muon: for the matrices, AdamW for the rest")
    learning_rate: float = Field(1.5e-3, gt=0, description="at its peak; decays by half a cosine")
    warmup_steps: int = Field(300, ge=0)
    weight_decay: float = Field(1e-3, ge=0)
    clip_norm: float = Field(5.0, gt=0)
    ema_decay: float = Field(0.999, ge=0, lt=1)


class FinetuneConfig(_Section):
    """Weights to start from; a fresh optimiser and schedule."""

    path: Path = Field(description="checkpoint (its best weights), model folder, or name of a bundled model")
    freeze: list[str] = Field(default_factory=list, description="beginnings of the names of parameters that stay")
    blend: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of these weights in the exported model (Wortsman 2022, arXiv 2109.01903)",
    )
    accept_worse: bool = Field(False, description="start although the weights are worse than the initial structures")


class LogConfig(_Section):
    """How a run is watched; `log.jsonl` is always written."""

    tensorboard: bool = Field(False, description="write events for TensorBoard, too")
    every_seconds: float = Field(10.0, gt=0, description="between lines")


class TrainConfig(_Section):
    """A training run.

    Examples
    --------
    >>> from pathlib import Path
    >>> from e3relax_flows import TrainConfig
    >>> data = {"train": ["train.jsonl.gz"], "val": ["val.jsonl.gz"]}
    >>> config = TrainConfig(out=Path("runs/mine"), data=data, schedule={"max_steps": 500})
    >>> config.kind, config.schedule.max_steps
    ('e3relax_h2', 500)
    """

    out: Path = Field(description="folder of checkpoints, log and the exported model")
    name: str = Field("trained", description="name of the exported model")
    data: DataConfig
    kind: Literal["e3relax_h2", "released"] = "e3relax_h2"
    network: dict[str, Any] = Field(
        default_factory=dict, description="sizes; unnamed ones as usual; none named: those of the start of `finetune`"
    )
    finetune: FinetuneConfig | None = None
    loss: LossWeights = Field(default_factory=lambda: LossWeights())
    schedule: ScheduleConfig = Field(default_factory=lambda: ScheduleConfig())
    seed: int = Field(0, ge=0)
    device: str = "cpu"
    threads: int | None = Field(None, ge=1, description="torch threads; none: as torch decides")
    precision: Literal["float32", "tf32", "bf16"] = Field("float32", description="of matrix products; bf16: autocast")
    checkpoint_minutes: float = Field(5.0, gt=0)
    walltime_hours: float | None = Field(None, gt=0, description="of this start; none: SLURM's end of the job, if any")
    stop_minutes: float = Field(5.0, ge=0, description="before the walltime at which a run is saved and stopped")
    val_every: int = Field(1000, ge=1, description="steps between validations")
    log: LogConfig = Field(default_factory=lambda: LogConfig())

    @field_validator("finetune", mode="before")
    @classmethod
    def _accept_path(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str | Path) else value

    def describe(self, network: dict[str, Any]) -> dict[str, Any]:
        """The part that must not change between restarts, as plain JSON; `network` are all sizes of the network."""
        content = self.model_dump(mode="json", exclude=MAY_CHANGE)
        if not self.data.shares:  # as in runs of before
            del content["data"]["shares"]
        return content | {"network": network}


def leave_out_mechanics(entries: dict[str, Any]) -> dict[str, Any]:
    """Entries of a training configuration without those that may change when it is continued."""
    kept = {name: value for name, value in entries.items() if MAY_CHANGE.get(name) is not True}
    for name, inner in MAY_CHANGE.items():
        if isinstance(inner, set) and isinstance(kept.get(name), dict):
            kept[name] = {key: value for key, value in kept[name].items() if key not in inner}
    return {name: value for name, value in kept.items() if value != {}}


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
    finetune = config.finetune
    if finetune and locate(finetune.path).exists():  # else it is a name
        finetune = finetune.model_copy(update={"path": locate(finetune.path)})
    return config.model_copy(update={"data": data, "out": locate(config.out), "finetune": finetune})


def find_changes(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """Entries that differ, as "schedule.max_steps: 100 -> 200"; a missing entry is None."""
    changes: list[str] = []
    for key in sorted(old.keys() | new.keys()):
        name = f"{prefix}{key}"
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            changes += find_changes(before, after, f"{name}.")
        elif before != after:
            changes.append(f"{name}: {before} -> {after}")
    return changes
