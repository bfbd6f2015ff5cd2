"""The outcome job: read the documents of an engine, join the result with the prediction, store it; also failures."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Protocol

from jobflow import CURRENT_JOB, Flow, JobConfig, OnMissing, OutputReference, job
from pymatgen.core import Structure

from e3relax_flows.core.errors import E3RelaxError, EngineError, StoreError, find_job_error
from e3relax_flows.ledger.claims import CLAIM_KEY, END_KEY, ERRORS_KEY, release_claims
from e3relax_flows.ledger.joining import join_outcome
from e3relax_flows.ledger.store import find_predictions, save_outcomes
from e3relax_flows.ledger.workspace import open_workspace
from e3relax_flows.prerelax.starts import take_start
from e3relax_flows.schemas.outcomes import OutcomeDoc, RelaxationResult, StartKind
from e3relax_flows.schemas.predictions import PredictionDoc
from e3relax_flows.stores.opening import describe_store

OUTCOME_JOB = "e3r outcome"


logger = logging.getLogger(__name__)


class RelaxationEngine(Protocol):
    """Interface of an engine for these jobs."""

    name: str

    @property
    def engine_id(self) -> str:
        """Content id of the engine and its settings."""

    def make(self, structure: Structure, prev_dir: None = None) -> Flow:
        """Flow that relaxes the structure."""

    def collect_outputs(self, flow: Flow) -> list[OutputReference]:
        """References to the documents of the flow's calculations."""

    def read(self, documents: list[Any]) -> RelaxationResult:
        """Result in these documents."""


def build_relaxation(engine: RelaxationEngine, prediction: PredictionDoc, kind: StartKind) -> Flow:
    """Build the flow of one relaxation and of the job that records its outcome, which is the flow's output.

    Launched twice, it relaxes twice: `claim_relaxation` prevents that. The jobs carry the ids in their
    metadata. A job whose predecessor failed is run and fails, too, since other managers than the local one would
    leave it and the outcome waiting.

    Raises
    ------
    EngineError
        When the engine cannot treat the structure.
    """
    flow = engine.make(take_start(prediction, kind))
    references = engine.collect_outputs(flow)
    flow.update_config({"on_missing_references": OnMissing.NONE})
    outcome = record_outcome(
        engine, prediction.prediction_id, kind, references, [ref.uuid for ref in references], prediction.id
    )
    both = Flow([flow, outcome], output=outcome.output, name=f"e3r {engine.name} {prediction.id or ''}".rstrip())
    both.update_metadata(describe_relaxation(prediction, kind))
    outcome.metadata[END_KEY] = True
    return both


def describe_relaxation(prediction: PredictionDoc, kind: StartKind) -> dict[str, Any]:
    """Metadata of the jobs of a relaxation."""
    return {
        "prediction_id": prediction.prediction_id,
        "structure_id": prediction.structure_id,
        "start_kind": kind.value,
        "candidate": prediction.id,
    }


@job(name=OUTCOME_JOB, output_schema=OutcomeDoc, config=JobConfig(on_missing_references=OnMissing.NONE))
def record_outcome(
    engine: RelaxationEngine,
    prediction_id: str,
    kind: StartKind,
    documents: list[Any],
    job_uuids: list[str],
    name: str | None = None,
) -> OutcomeDoc:
    """Read the engine's documents, join the result with the prediction, store the outcome.

    Any error of the relaxation makes a failed outcome with a message; a later outcome replaces it.

    Parameters
    ----------
    engine
        Its reader is used.
    prediction_id
        The prediction must be in the store of this worker.
    kind
        Start of the relaxation.
    documents
        Documents of the engine's jobs, None for missing ones.
    job_uuids
        The jobs of these documents.
    name
        The user's name for the structure.

    Raises
    ------
    StoreError
        When the prediction is not in the store.
    """
    kind = StartKind(kind)
    with open_workspace() as workspace:
        prediction = find_predictions(workspace.predictions, [prediction_id]).get(prediction_id)
        if prediction is None:
            raise StoreError(
                f"prediction {prediction_id!r} is not in store {describe_store(workspace.predictions)}; workers that "
                "predict and workers that record outcomes must share their stores: compare `e3relax doctor` on both, "
                "set E3RELAX_DATA_DIR to one absolute path where they run in different folders"
            )
        prediction = prediction.model_copy(update={"id": name or prediction.id})
        outcome = _join(engine, prediction, kind, documents, job_uuids)
        current = CURRENT_JOB.job
        if current:
            outcome.hosts, outcome.metadata = list(current.hosts), dict(current.metadata)
        save_outcomes(workspace.outcomes, [outcome], replace_failed=True)
        if CLAIM_KEY in outcome.metadata:
            release_claims(workspace.claims, [outcome.outcome_id])
    return outcome


def join_failure(
    engine: RelaxationEngine,
    prediction: PredictionDoc,
    kind: StartKind,
    error: Exception,
    job_uuids: Sequence[str] = (),
) -> OutcomeDoc:
    """Outcome of a relaxation that could not be built or read."""
    message = str(error) if isinstance(error, E3RelaxError) else f"{type(error).__name__}: {error}"
    return join_outcome(prediction, kind, engine.name, engine.engine_id, None, message, job_uuids)


def _join(
    engine: RelaxationEngine, prediction: PredictionDoc, kind: StartKind, documents: list[Any], job_uuids: list[str]
) -> OutcomeDoc:
    lost = [uuid for uuid, document in zip(job_uuids, documents, strict=True) if document is None]
    message = None
    if lost:
        logger.info(
            "candidate %s: %d of %d jobs of %s left no document", prediction.id, len(lost), len(documents), engine.name
        )
        described = ", ".join(map(_describe_job, lost))
        message = f"{len(lost)} of {len(documents)} jobs of the engine left no document: {described}"
    if len(lost) == len(documents):
        return join_failure(engine, prediction, kind, EngineError(message or "the engine has no jobs"), job_uuids)
    try:
        result = engine.read(documents)
        return join_outcome(prediction, kind, engine.name, engine.engine_id, result, message, job_uuids)
    except Exception as error:  # an unreadable document affects this candidate only
        return join_failure(engine, prediction, kind, error, job_uuids)


def _describe_job(uuid: str) -> str:
    """A job without a document, with its error if it ran in this process or in the launch of the claim."""
    noted = CURRENT_JOB.job.metadata.get(ERRORS_KEY, {}) if CURRENT_JOB.job else {}
    error = find_job_error(uuid) or noted.get(uuid)
    return uuid if error is None else f"{uuid} ({error})"
