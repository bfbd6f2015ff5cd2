"""Documents of retraining: configuration, training runs, and results."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from e3relax_flows.core.ids import hash_content
from e3relax_flows.core.run_information import collect_versions, now
from e3relax_flows.schemas.datasets import GroupBy, PairFilter
from e3relax_flows.schemas.models import Decision, GateLimits, OnChallenger
from e3relax_flows.schemas.predictions import PredictOptions
from e3relax_flows.schemas.training import leave_out_mechanics


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DatasetConfig(_Section):
    """Which pairs of the store are trained on, and which choose the best weights."""

    filter: PairFilter = Field(default_factory=lambda: PairFilter())
    group_by: GroupBy = Field("chemical_system", description="pairs of one group are never divided")
    val_fraction: float = Field(0.1, gt=0, lt=1, description="of the groups, for validation")
    seed: int = 0


class ReplayConfig(_Section):
    """Old pairs among the new ones, so that fine-tuning forgets nothing."""

    fraction: float = Field(0.5, ge=0, lt=1, description="of the pairs trained on, or all old ones; 0: none")
    predictions: int | None = Field(
        None,
        ge=0,
        description="pairs of random crystals and the predictions of the incumbent that are replayed beside old pairs; "
        "0: none, as for another functional; none: 5,000, or 20 for each step, where `fraction` is not 0",
    )
    share: float = Field(0.5, gt=0, lt=1, description="of these predictions in the samples that are trained on")
    sources: list[str] | None = Field(
        None, description="old pairs are those of these sources; none: those of the incumbent's dataset"
    )
    bundled: bool | Literal["auto"] = Field(
        False,
        description="whether the pairs of the package's replay set are old ones, too; auto: where no sources are named "
        "and all other pairs are of PBE, PBE+U or a potential for these; in our measurements no less was forgotten",
    )


class LaunchConfig(_Section):
    """How the processes of a training are started; the world size follows from the allocation of the job."""

    how: Literal["auto", "process", "torchrun", "srun", "srun-torchrun"] = Field(
        "auto", description="auto: in the job's process for one device, torchrun on one node, srun on several"
    )
    processes: int | None = Field(None, ge=1, description="per node; none: one for each GPU of the job, at least one")
    max_continuations: int = Field(100, ge=0, description="allocations after the first that a run may take")


class RetrainConfig(_Section):
    """A retraining, from the pair store to the alias.

    Examples
    --------
    The same as in configs/retrain.yaml:

    >>> from e3relax_flows import RetrainConfig
    >>> config = RetrainConfig(name="oxides", holdout="mine", training={"schedule": {"max_steps": 2000}})
    >>> config.alias, config.method, config.replay.share
    ('default', 'finetune', 0.5)
    """

    name: str = Field("retrained", pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*$", description="name of the model")
    alias: str = Field("default", description="alias that moves to the challenger if it passes the gate")
    holdout: str = Field(description="name of the frozen holdout on which challenger and incumbent are compared")
    original_holdout: str | None = Field(None, description="name of the holdout that shows forgetting")
    method: Literal["finetune", "scratch"] = Field("finetune", description="start: the incumbent's weights, or none")
    seeds: list[int] = Field([0], min_length=1, description="a training for each; validation chooses the challenger")
    dataset: DatasetConfig = Field(default_factory=lambda: DatasetConfig())
    replay: ReplayConfig = Field(default_factory=lambda: ReplayConfig())
    training: dict[str, Any] = Field(
        default_factory=dict,
        description="entries of a training configuration, such as schedule; without out, name, seed, and files of data",
    )
    freeze: list[str] = Field(default_factory=list, description="beginnings of names of parameters that stay")
    blend: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="share of the incumbent's weights in the fine-tuned model, against forgetting; 0: none, as for "
        "another functional; none: 0.15 where predictions are replayed, 0.5 elsewhere",
    )
    launch: LaunchConfig = Field(default_factory=lambda: LaunchConfig())
    options: PredictOptions = Field(default_factory=lambda: PredictOptions(), description="of the evaluation")
    chunk_size: int = Field(2000, ge=1, description="pairs of a holdout in one evaluation job")
    device: str = Field("auto", description="torch device of the evaluation")
    gate: GateLimits = Field(default_factory=lambda: GateLimits())
    promote: bool = Field(True, description="move the alias if the gate allows it; False: only report the decision")

    def describe(self) -> dict[str, Any]:
        """What decides on the result, as plain JSON; not where and in how many jobs it is computed."""
        content = self.model_dump(mode="json", exclude={"chunk_size", "device", "launch", "training"})
        return content | {"training": leave_out_mechanics(self.training)}


class SnapshotDoc(BaseModel):
    """Input of a retraining; its ids travel between the jobs."""

    dataset_id: str
    holdout_id: str
    original_holdout_id: str | None = None
    incumbent_id: str
    alias_version: int = Field(description="of the alias when the incumbent was looked up; -1: it was never moved")
    n_train: int
    n_val: int
    n_replayed: int = Field(0, description="old pairs among those trained on")
    n_bundled: int = Field(0, description="pairs of the package's replay set among these")
    n_quarantined: int = 0


class TrainingDoc(BaseModel):
    """One training run, found by `run_id`: the dataset, the start, the configuration and the seed."""

    run_id: str
    dataset_id: str
    parent_id: str | None = None
    seed: int
    state: Literal["finished", "stopped"]
    model_id: str | None = Field(None, description="None until it is finished")
    best_score: float | None = Field(None, description="error over the identity's, on validation")
    step: int = 0
    hours: float = 0.0
    n_starts: int = Field(1, description="allocations that it took")
    message: str | None = None
    command: list[str] = Field(default_factory=list, description="launch line; empty: in the job's process")
    hardware: dict[str, Any] = Field(default_factory=dict)
    versions: dict[str, str] = Field(default_factory=collect_versions)
    last_updated: datetime = Field(default_factory=now)


class RetrainDoc(OnChallenger):
    """Result of a retraining.

    Examples
    --------
    What `run_retraining` gives; `promoted` is true where the new model is in service:

    >>> from e3relax_flows import RetrainDoc
    >>> ids = {"dataset_id": "d", "holdout_id": "h", "incumbent_id": "m"}
    >>> data = {**ids, "alias_version": -1, "n_train": 9, "n_val": 1}
    >>> judged = {"challenger_id": "c", "gate_id": "g", "decision": "keep", "reasons": ["errors are equal"]}
    >>> document = RetrainDoc(name="oxides", alias="default", snapshot=data, trainings=[], promoted=False, **judged)
    >>> str(document.decision), document.promoted, document.snapshot.n_train
    ('keep', False, 9)
    """

    name: str
    alias: str
    snapshot: SnapshotDoc
    trainings: list[TrainingDoc]
    challenger_id: str
    gate_id: str
    decision: Decision
    reasons: list[str]
    promoted: bool = Field(description="whether the alias was moved")
    message: str | None = None
    versions: dict[str, str] = Field(default_factory=collect_versions)
    last_updated: datetime = Field(default_factory=now)


def identify_run(dataset_id: str, parent_id: str | None, training: dict[str, Any], seed: int) -> str:
    """Id of a training run; a run with the same id is continued, never started again."""
    return hash_content({"dataset": dataset_id, "parent": parent_id, "training": training, "seed": seed})


def name_run_folder(data_dir: Path, run_id: str) -> Path:
    """Folder of a run's configuration, shards, checkpoints and exported model."""
    return data_dir / "training" / run_id
