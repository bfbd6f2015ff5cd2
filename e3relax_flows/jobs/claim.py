"""The claim job: relax a candidate unless its outcome is known or another flow is at it."""

from __future__ import annotations

from datetime import UTC
from pathlib import Path
from typing import Any

from jobflow import CURRENT_JOB, Job, JobConfig, Response, job

from e3relax_flows.core.settings import load_settings
from e3relax_flows.data.claims import ClaimDoc, open_claim_store, release_claims, take_claim
from e3relax_flows.data.stores import find_outcomes, open_outcome_store, open_stores, save_outcomes, save_predictions
from e3relax_flows.jobs.dispatch import is_reusable
from e3relax_flows.jobs.outcome import CLAIM_KEY, RelaxationEngine, build_relaxation, describe_relaxation, join_failure
from e3relax_flows.schemas.outcomes import OutcomeDoc, StartKind, identify_outcome
from e3relax_flows.schemas.predictions import PredictionDoc

CLAIM_JOB = "e3r claim"
MANAGER_FILES = {"FW.json": "fireworks", "FW.yaml": "fireworks", "jfremote_in.json": "remote"}


def claim_relaxation(
    engine: RelaxationEngine, prediction: PredictionDoc, kind: StartKind, retry_failed: bool = False
) -> Job:
    """Build the job that relaxes a candidate once, however often it is launched; its output is the outcome.

    Where the outcome is known, that is the output. Where another flow relaxes the same candidate, the output is
    None, and the outcome will be in the store. Otherwise the job replaces itself by the relaxation.

    Parameters
    ----------
    engine
        What to relax with.
    prediction
        From the prediction job.
    kind
        Where to start.
    retry_failed
        Whether an outcome that failed in another flow is tried again.
    """
    claim = relax_once(engine, prediction, kind, retry_failed)
    claim.update_metadata(describe_relaxation(prediction, kind))
    return claim


@job(name=CLAIM_JOB, config=JobConfig(pass_manager_config=False))
def relax_once(
    engine: RelaxationEngine, prediction: PredictionDoc, kind: StartKind, retry_failed: bool = False
) -> OutcomeDoc | Response[Any] | None:
    """Claim a relaxation and be replaced by it; see `claim_relaxation`."""
    return claim_and_relax(engine, prediction, kind, retry_failed)


def claim_and_relax(
    engine: RelaxationEngine, prediction: PredictionDoc, kind: StartKind, retry_failed: bool
) -> OutcomeDoc | Response[Any] | None:
    """What a claim job does; what the engine cannot treat becomes a failed outcome."""
    kind, settings = StartKind(kind), load_settings()
    outcome_id = identify_outcome(prediction.prediction_id, engine.engine_id, kind)
    current: Job = CURRENT_JOB.job

    def find_reusable() -> tuple[OutcomeDoc | None, float | None]:
        """The outcome if it need not be computed again, and when a failed one was recorded."""
        outcome = find_outcomes(outcomes, [outcome_id]).get(outcome_id)
        if outcome is None:
            return None, None
        is_own = outcome.metadata.get(CLAIM_KEY) == current.uuid
        reusable = is_own or is_reusable(outcome, retry_failed)
        return (outcome if reusable else None), outcome.last_updated.astimezone(UTC).timestamp()

    with open_outcome_store(settings) as outcomes, open_claim_store(settings) as claims:
        known, finished_at = find_reusable()
        if known is not None:
            return known
        flow = current.hosts[-1] if current.hosts else None
        claim = ClaimDoc(claim_id=outcome_id, owner=current.uuid, flow=flow, manager=find_manager())
        if take_claim(claims, claim, finished_at):
            return None
        known, _ = find_reusable()  # it may have been recorded, and its claim released, since the first look
        if known is not None:
            release_claims(claims, [outcome_id], current.uuid)
            return known
    return _replace(engine, prediction, kind, current)


def find_manager() -> str | None:
    """Who runs this job and will run those that replace it, by the files it leaves where its jobs run."""
    return next((name for file, name in MANAGER_FILES.items() if Path(file).exists()), None)


def _replace(
    engine: RelaxationEngine, prediction: PredictionDoc, kind: StartKind, current: Job
) -> OutcomeDoc | Response[Any]:
    """Replace the current job by the relaxation, whose outcome job takes the place of the current one."""
    try:
        flow = build_relaxation(engine, prediction, kind)
    except Exception as error:  # one candidate's trouble is not the others'
        outcome = join_failure(engine, prediction, kind, error)
        outcome.hosts, outcome.metadata = list(current.hosts), {**current.metadata, CLAIM_KEY: current.uuid}
        with open_stores(load_settings()) as stores:
            save_predictions(stores.predictions, [prediction])
            save_outcomes(stores.outcomes, [outcome], replace_failed=True)
        with open_claim_store(load_settings()) as claims:
            release_claims(claims, [outcome.outcome_id], current.uuid)
        return outcome
    flow.update_metadata({CLAIM_KEY: current.uuid})
    # as jobflow does it with a job of its own that would only hand on the output
    flow.output = None
    outcome_job = next(node for node in flow.jobs if isinstance(node, Job))
    outcome_job.set_uuid(current.uuid)
    outcome_job.index = current.index + 1
    return Response(replace=flow)
