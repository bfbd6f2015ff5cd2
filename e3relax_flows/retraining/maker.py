"""RetrainMaker: snapshot, train, evaluate, judge, promote, as jobs between which only ids travel."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from jobflow import Flow, Job, JobConfig, Maker, OnMissing, Response, job

from e3relax_flows.core.errors import ModelError
from e3relax_flows.ledger.workspace import open_workspace
from e3relax_flows.pairs.dataset_store import open_dataset_stores
from e3relax_flows.pairs.store import open_pair_stores
from e3relax_flows.registry.judgements import open_judgements
from e3relax_flows.registry.store import open_alias_store, open_model_store
from e3relax_flows.registry.weights import hold_weights
from e3relax_flows.retraining.judging import (
    CHOOSE_JOB,
    COLLECT_JOB,
    EVALUATE_JOB,
    GATE_JOB,
    PROMOTE_JOB,
    as_rows,
    choose_challenger,
    collect_rows,
    conclude,
    evaluate_chunk,
    judge_challenger,
    plan_evaluation,
)
from e3relax_flows.retraining.training import SNAPSHOT_JOB, TRAIN_JOB, take_snapshot, train
from e3relax_flows.schemas.models import EvaluatedPair, GateDoc
from e3relax_flows.schemas.retraining import RetrainConfig, RetrainDoc, SnapshotDoc, TrainingDoc

# of several trainings one may fail
TOLERANT = JobConfig(on_missing_references=OnMissing.NONE)


@dataclass
class RetrainMaker(Maker):
    """Retrain from the pairs in the store, and let the gate decide on the model in service.

    The jobs are `e3r snapshot`, `e3r train` for each seed, `e3r choose`, `e3r evaluate` for challenger and incumbent on
    each holdout, which replaces itself by several jobs, `e3r gate` and `e3r promote`, whose `RetrainDoc` is the
    output. A training that is stopped by its walltime is continued by a new job with the same run id. Run again, the
    flow finds its earlier results: the same dataset, run, evaluations and gate.

    Parameters
    ----------
    config
        Data, training and gate; it may be a dictionary of the fields of `RetrainConfig`.
    name
        Name of the flow.

    Examples
    --------
    >>> from e3relax_flows import RetrainMaker
    >>> flow = RetrainMaker(config={"holdout": "mine"}).make()
    >>> [job.name for job in flow.jobs]
    ['e3r snapshot', 'e3r train', 'e3r choose', 'e3r evaluate', 'e3r evaluate', 'e3r gate', 'e3r promote']
    """

    opens: ClassVar = (
        open_pair_stores, open_dataset_stores, open_model_store, open_alias_store, open_judgements, hold_weights
    )  # before a submission  # fmt: skip

    config: RetrainConfig = field(kw_only=True)
    name: str = "e3r retrain"

    def __post_init__(self) -> None:
        self.config = RetrainConfig.model_validate(self.config)

    def as_dict(self) -> dict[str, Any]:
        """Dictionary with a plain configuration, so that jobflow's `dict_mod` can change it."""
        return super().as_dict() | {"config": self.config.model_dump(mode="json")}

    def make(self, incumbent: str | None = None, snapshot: SnapshotDoc | None = None) -> Flow:
        """Build the flow.

        Parameters
        ----------
        incumbent
            Alias, name or id of the model in service; None: the model of the configured alias when the flow
            begins. It may be a reference to the output of another job.
        snapshot
            Pairs that were chosen before, with the incumbent; None: those in the store when the flow begins.
        """
        first = None if snapshot else self.snapshot(incumbent)
        chosen: Any = snapshot if first is None else first.output
        trainings = [self.train(chosen, seed) for seed in self.config.seeds]
        outputs = [training.output for training in trainings]
        choice = self.choose(outputs)
        evaluations = [
            self.evaluate(model, chosen, which)
            for model in (choice.output, None)
            for which in ("holdout", *(["original"] if self.config.original_holdout else []))
        ]
        gate = self.gate(chosen, choice.output, [evaluation.output for evaluation in evaluations])
        end = self.promote(chosen, outputs, gate.output)
        jobs: list[Flow | Job] = [*([first] if first else []), *trainings, choice, *evaluations, gate, end]
        return Flow(jobs, output=end.output, name=self.name)

    @job(name=SNAPSHOT_JOB, output_schema=SnapshotDoc)
    def snapshot(self, incumbent: str | None) -> SnapshotDoc:
        """Choose the pairs that are in the store now."""
        with open_workspace() as workspace:
            return take_snapshot(self.config, incumbent, workspace)

    @job(name=TRAIN_JOB, output_schema=TrainingDoc)
    def train(self, snapshot: SnapshotDoc, seed: int, n_starts: int = 1) -> TrainingDoc | Response[Any]:
        """Train one run; stopped by its walltime, it is replaced by a job that continues it.

        Stopped by a user, the job fails with `StoppedError`: a launchpad keeps it for a rerun, which continues the
        training, and a local run ends.
        """
        with open_workspace() as workspace:
            training = train(self.config, snapshot, seed, workspace)
        training.n_starts = n_starts
        if training.state == "finished":
            return training
        if n_starts > self.config.launch.max_continuations:
            raise ModelError(
                f"run {training.run_id} was stopped {n_starts} times and is at step {training.step}; "
                "raise launch.max_continuations to continue it"
            )
        return Response(replace=self.train(snapshot, seed, n_starts + 1))

    @job(name=CHOOSE_JOB, config=TOLERANT)
    def choose(self, trainings: list[TrainingDoc | None]) -> str:
        """Choose the challenger among the trainings by validation."""
        return choose_challenger(trainings)

    @job(name=EVALUATE_JOB)
    def evaluate(self, model_id: str | None, snapshot: SnapshotDoc, which: str) -> str | Response[Any]:
        """Evaluate a model (None: the incumbent) on the holdout or the original one; return the holdout's id."""
        holdout_id = snapshot.holdout_id if which == "holdout" else str(snapshot.original_holdout_id)
        model_id = model_id or snapshot.incumbent_id
        with open_workspace() as workspace:
            chunks = plan_evaluation(model_id, holdout_id, self.config, workspace)
            if len(chunks) == 1:
                rows = evaluate_chunk(model_id, chunks[0], self.config, workspace)
                collect_rows(model_id, holdout_id, [rows], self.config, workspace)
        if len(chunks) <= 1:
            return holdout_id
        jobs: list[Job] = [self.evaluate_chunk(model_id, ids) for ids in chunks]
        end = self.collect(model_id, holdout_id, [part.output for part in jobs])
        return Response(replace=Flow([*jobs, end], output=end.output, name=EVALUATE_JOB))

    @job(name=EVALUATE_JOB)
    def evaluate_chunk(self, model_id: str, pair_ids: list[str]) -> list[EvaluatedPair]:
        """Evaluate a model on some pairs."""
        with open_workspace() as workspace:
            return evaluate_chunk(model_id, pair_ids, self.config, workspace)

    @job(name=COLLECT_JOB)
    def collect(self, model_id: str, holdout_id: str, chunks: list[list[EvaluatedPair]]) -> str:
        """Join the parts of an evaluation; return the holdout's id."""
        with open_workspace() as workspace:
            collect_rows(model_id, holdout_id, [as_rows(chunk) for chunk in chunks], self.config, workspace)
        return holdout_id

    @job(name=GATE_JOB, output_schema=GateDoc)
    def gate(self, snapshot: SnapshotDoc, challenger_id: str, evaluated: list[str]) -> GateDoc:  # noqa: ARG002
        """Compare challenger and incumbent, once both are evaluated."""
        with open_workspace() as workspace:
            return judge_challenger(self.config, snapshot, challenger_id, workspace)

    @job(name=PROMOTE_JOB, output_schema=RetrainDoc, config=TOLERANT)
    def promote(self, snapshot: SnapshotDoc, trainings: list[TrainingDoc | None], gate: GateDoc | None) -> RetrainDoc:
        """Move the alias if the gate allows it."""
        with open_workspace() as workspace:
            return conclude(self.config, snapshot, trainings, gate, workspace)
