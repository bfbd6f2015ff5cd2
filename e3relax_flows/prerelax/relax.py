"""The claim job: relax a candidate unless its outcome is known or another flow relaxes it."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

from jobflow import CURRENT_JOB, Flow, Job, JobConfig, JobStore, Response, job
from monty.json import MontyDecoder, MontyEncoder

from e3relax_flows.ledger.claims import BEGIN_KEY, CLAIM_KEY, ClaimDoc, is_recorded, release_claims, take_claim
from e3relax_flows.ledger.store import find_outcomes, save_outcomes, save_predictions
from e3relax_flows.ledger.workspace import open_workspace
from e3relax_flows.prerelax.record import RelaxationEngine, build_relaxation, describe_relaxation, join_failure
from e3relax_flows.prerelax.starts import is_reusable
from e3relax_flows.schemas.outcomes import OutcomeDoc, StartKind, identify_outcome
from e3relax_flows.schemas.predictions import PredictionDoc

CLAIM_JOB = "e3r claim"
NAMESPACE = UUID("5d1f4c35-6ad5-4d3c-8a1b-1f0f4f0f6a53")  # of uuids derived from names
MANAGER_FILES = {"FW.json": "fireworks", "FW.yaml": "fireworks", "jfremote_in.json": "remote"}


logger = logging.getLogger(__name__)


def claim_relaxation(
    engine: RelaxationEngine, prediction: PredictionDoc, kind: StartKind, retry_failed: bool = False
) -> Job:
    """Build the job that relaxes a candidate once, also if it is launched several times; its output is the outcome.

    If the outcome is known, it is the output. If another flow relaxes the same candidate, the output is
    None, and the outcome will be in the store. Otherwise the job replaces itself by the relaxation.

    Parameters
    ----------
    engine
        Engine of the relaxation.
    prediction
        From the prediction job.
    kind
        Start of the relaxation.
    retry_failed
        Whether an outcome that failed in another flow is tried again.
    """
    claim = relax_once(engine, prediction, kind, retry_failed)
    claim.update_metadata(describe_relaxation(prediction, kind))
    claim.metadata[BEGIN_KEY] = True
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
    """Body of a claim job; a structure that the engine cannot treat becomes a failed outcome."""
    kind = StartKind(kind)
    outcome_id = identify_outcome(prediction.prediction_id, engine.engine_id, kind)
    current: Job = CURRENT_JOB.job

    def find_known() -> tuple[OutcomeDoc | None, str | None]:
        """The outcome if it need not be computed again, and the owner of a failed one."""
        outcome = find_outcomes(workspace.outcomes, [outcome_id]).get(outcome_id)
        if outcome is None:
            return None, None
        recorded_by = outcome.metadata.get(CLAIM_KEY)
        reusable = recorded_by == current.uuid or is_reusable(outcome, retry_failed)
        return (outcome if reusable else None), recorded_by

    with open_workspace() as workspace:
        known, recorded_by = find_known()
        if known is not None:
            logger.info("outcome %s of candidate %s: known, %s", outcome_id, prediction.id, known.state)
            return known
        flow = current.hosts[-1] if current.hosts else None
        claim = ClaimDoc(claim_id=outcome_id, owner=current.uuid, flow=flow, manager=find_manager())
        if holder := take_claim(workspace.claims, claim, recorded_by):
            logger.info("outcome %s of candidate %s: claimed by %s", outcome_id, prediction.id, holder.describe())
            return None
        known, _ = find_known()  # it may have been recorded, and its claim released, since the first check
        if known is not None:
            release_claims(workspace.claims, [outcome_id], current.uuid)
            return known
        logger.info(
            "outcome %s of candidate %s: claimed by %s, start %s, engine %s",
            outcome_id, prediction.id, current.uuid, kind, engine.name,
        )  # fmt: skip
        return _replace(engine, prediction, kind, current)


def find_manager() -> str | None:
    """The manager that runs this job and those that replace it, detected by its files in the job's folder."""
    # jobs that are run in one launch have folders of their own in that of the launch
    paths = (Path(folder, file) for folder in (".", "..") for file in MANAGER_FILES)
    return next((MANAGER_FILES[path.name] for path in paths if path.exists()), None)


def make_uuid(words: str) -> str:
    """The uuid of a name; the same for the same name."""
    return str(uuid5(NAMESPACE, words))


def name_jobs(flow: Flow, words: str) -> Flow:
    """A copy of a flow whose uuids are derived from a name and from the indices of its jobs.

    A job that claims twice, since its worker was killed in between, then creates the same jobs.
    """
    names = {old: make_uuid(f"{words}:{index}") for index, old in enumerate(flow.all_uuids)}
    names[flow.uuid] = make_uuid(words)
    text = json.dumps(flow.as_dict(), cls=MontyEncoder)
    text = re.sub("|".join(map(re.escape, names)), lambda found: names[found[0]], text)
    renamed: Flow = json.loads(text, cls=MontyDecoder)
    return renamed


def leave_out_recorded(flow: Flow, store: JobStore) -> None:
    """Remove jobs whose output is in the store from a flow; dependents find the output there."""
    flow.output = None
    recorded = []
    for index, node in enumerate(flow.jobs):
        if isinstance(node, Flow):
            leave_out_recorded(node, store)
            if not node.jobs:
                recorded.append(index)
        elif is_recorded(node, store):
            recorded.append(index)
    flow.remove_jobs(recorded)


def _replace(
    engine: RelaxationEngine, prediction: PredictionDoc, kind: StartKind, current: Job
) -> OutcomeDoc | Response[Any]:
    """Replace the current job by the relaxation, whose outcome job replaces the current one."""
    try:
        flow = build_relaxation(engine, prediction, kind)
    except Exception as error:  # an error of one candidate does not affect the others
        outcome = join_failure(engine, prediction, kind, error)
        outcome.hosts, outcome.metadata = list(current.hosts), {**current.metadata, CLAIM_KEY: current.uuid}
        with open_workspace() as workspace:
            save_predictions(workspace.predictions, [prediction])
            save_outcomes(workspace.outcomes, [outcome], replace_failed=True)
            release_claims(workspace.claims, [outcome.outcome_id], current.uuid)
        return outcome
    flow = name_jobs(flow, f"{current.uuid}:{current.index}")
    flow.update_metadata({CLAIM_KEY: current.uuid})
    # as jobflow does with a job of its own that would only pass on the output
    flow.output = None
    if CURRENT_JOB.store is not None:  # if this process runs all jobs, no other process checks it
        leave_out_recorded(flow, CURRENT_JOB.store)
    outcome_job = next(node for node in flow.jobs if isinstance(node, Job))
    outcome_job.set_uuid(current.uuid)
    outcome_job.index = current.index + 1
    return Response(replace=flow)
