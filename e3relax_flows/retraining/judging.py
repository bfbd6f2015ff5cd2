"""The steps of a retraining that judge a challenger: evaluate, compare with the incumbent, move the alias."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from e3relax_flows.core.errors import ModelError, StoreError
from e3relax_flows.ledger.workspace import Workspace
from e3relax_flows.pairs.dataset_store import find_holdout, open_dataset_stores
from e3relax_flows.pairs.store import find_pairs, open_pair_store
from e3relax_flows.registry.aliases import promote
from e3relax_flows.registry.judgements import (
    count_looks,
    find_evaluation,
    find_gates,
    open_judgements,
    save_evaluation,
    save_gate,
)
from e3relax_flows.registry.models import fetch_model
from e3relax_flows.schemas.models import Decision, EvaluatedPair, EvaluationDoc, GateDoc, identify_evaluation
from e3relax_flows.schemas.retraining import RetrainConfig, RetrainDoc, SnapshotDoc, TrainingDoc

CHOOSE_JOB, EVALUATE_JOB, COLLECT_JOB = "e3r choose", "e3r evaluate", "e3r collect"
GATE_JOB, PROMOTE_JOB = "e3r gate", "e3r promote"


logger = logging.getLogger(__name__)


def choose_challenger(trainings: Sequence[TrainingDoc | None]) -> str:
    """Model id of the finished training with the best score on validation.

    Raises
    ------
    ModelError
        When no training was finished.
    """
    finished = [training for training in trainings if training and training.model_id]
    if not finished:
        raise ModelError(f"none of {len(trainings)} trainings was finished; see the errors of their jobs")
    best = min(finished, key=lambda training: (training.best_score, training.model_id))
    logger.info("model %s: the challenger, the best of %d trainings", best.model_id, len(finished))
    return str(best.model_id)


def plan_evaluation(model_id: str, holdout_id: str, config: RetrainConfig, workspace: Workspace) -> list[list[str]]:
    """Pair ids of a holdout by part; empty if the evaluation is in the store already."""
    if find_evaluation(workspace.get(open_judgements), identify_evaluation(model_id, holdout_id, config.options)):
        return []
    ids = find_holdout(workspace.get(open_dataset_stores), holdout_id).pair_ids
    return [ids[start : start + config.chunk_size] for start in range(0, len(ids), config.chunk_size)]


def evaluate_chunk(
    model_id: str, pair_ids: Sequence[str], config: RetrainConfig, workspace: Workspace
) -> list[EvaluatedPair]:
    """Errors of a model on some pairs of a holdout, computed with the weights of exactly that id."""
    from e3relax_flows.judging.assess import assess_pairs
    from e3relax_flows.predict.predictor import Predictor
    from e3relax_flows.train.snapshot import pack_pairs

    pairs = pack_pairs(find_pairs(workspace.get(open_pair_store), pair_ids).values(), pair_ids)
    folder = fetch_model(model_id, workspace)
    device = workspace.settings.DEVICE if config.device == "auto" else config.device
    predictor = Predictor.load(str(folder.path), device=device)
    if predictor.model_id != model_id:
        raise ModelError(f"requested model {model_id}, loaded {predictor.model_id} from {folder.path}")
    return assess_pairs(predictor, pairs, config.options)


def collect_rows(
    model_id: str,
    holdout_id: str,
    chunks: Sequence[Sequence[EvaluatedPair]],
    config: RetrainConfig,
    workspace: Workspace,
) -> str:
    """Join the rows of all parts and store them as an evaluation; return its id.

    Raises
    ------
    ConfigError
        When a pair of the holdout is missing.
    """
    from e3relax_flows.judging.assess import collect_evaluation

    holdout = find_holdout(workspace.get(open_dataset_stores), holdout_id)
    document = collect_evaluation(chunks, model_id, holdout, config.options)
    save_evaluation(workspace.get(open_judgements), document)
    return document.evaluation_id


def judge_challenger(config: RetrainConfig, snapshot: SnapshotDoc, challenger_id: str, workspace: Workspace) -> GateDoc:
    """Compare challenger and incumbent on the holdouts, and store the judgement; the same comparison is stored once.

    Raises
    ------
    StoreError
        When an evaluation is missing.
    """
    from e3relax_flows.judging.gate import judge

    incumbent_id = snapshot.incumbent_id
    stores = workspace.get(open_judgements)

    def find(model_id: str, holdout_id: str) -> EvaluationDoc:
        wanted = identify_evaluation(model_id, holdout_id, config.options)
        if document := find_evaluation(stores, wanted):
            return document
        raise StoreError(
            f"the evaluation of model {model_id} on holdout {holdout_id} is missing; its job failed or wrote to "
            "another store: compare `e3relax doctor` on the workers, and run the retraining again"
        )

    original = snapshot.original_holdout_id
    document = judge(
        find(challenger_id, snapshot.holdout_id),
        find(incumbent_id, snapshot.holdout_id),
        config.gate,
        count_looks(stores, snapshot.holdout_id, challenger_id),
        (find(challenger_id, original), find(incumbent_id, original)) if original else None,
    )
    save_gate(stores, document)
    return find_gates(stores, {"gate_id": document.gate_id})[0]


def conclude(
    config: RetrainConfig,
    snapshot: SnapshotDoc,
    trainings: Sequence[TrainingDoc | None],
    gate: GateDoc | None,
    workspace: Workspace,
) -> RetrainDoc:
    """Move the alias if the gate allows it, and return the result of the retraining.

    Raises
    ------
    ModelError
        When the judgement is missing.
    """
    if gate is None:
        raise ModelError("the challenger was not judged; see the error of the first failed job")
    document = RetrainDoc(
        name=config.name,
        alias=config.alias,
        snapshot=snapshot,
        trainings=[training for training in trainings if training],
        challenger_id=gate.challenger_id,
        gate_id=gate.gate_id,
        decision=gate.decision,
        reasons=gate.reasons,
        promoted=False,
    )
    if gate.decision != Decision.PROMOTE:
        document.message = f"alias {config.alias!r} stays with {gate.incumbent_id}: {gate.decision}"
    elif not config.promote:
        document.message = (
            f"the gate lets {gate.challenger_id} pass; promote it with: e3relax models promote {gate.challenger_id} "
            f"--alias {config.alias} --reason 'gate {gate.gate_id}'"
        )
    else:
        _promote(document, gate, config.alias, snapshot.alias_version, workspace)
    logger.info("model %s: %s", gate.challenger_id, document.message)
    return document


def _promote(document: RetrainDoc, gate: GateDoc, alias: str, version: int, workspace: Workspace) -> None:
    reason = f"gate {gate.gate_id}: {gate.reasons[0] if gate.reasons else gate.decision}"
    try:
        promote(alias, gate.challenger_id, reason, gate.gate_id, version, workspace)
    except StoreError as error:  # the alias was moved during the training
        document.message = f"{error}; the gate compared with {gate.incumbent_id}: run the retraining again"
        return
    document.promoted = True
    document.message = f"alias {alias!r} means {gate.challenger_id} now, no longer {gate.incumbent_id}"


def as_rows(rows: Sequence[EvaluatedPair | dict[str, object]]) -> list[EvaluatedPair]:
    """Rows as documents, from the forms that the job store returns."""
    return [EvaluatedPair.model_validate(row) for row in rows]
