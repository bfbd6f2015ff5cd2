"""Relax a chunk of candidates in one process: claims, relaxations, outcomes; each is recorded as it ends."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from jobflow import JobStore
from monty.json import jsanitize

from e3relax_flows.core.errors import StoreError
from e3relax_flows.engines.base import Engine
from e3relax_flows.engines.chunks import find_large_parts, relax_structures
from e3relax_flows.ledger.claims import CLAIM_KEY, ClaimDoc, release_claims, take_claim
from e3relax_flows.ledger.joining import join_outcome
from e3relax_flows.ledger.store import find_outcomes, save_outcomes
from e3relax_flows.ledger.workspace import Workspace
from e3relax_flows.prerelax.record import describe_relaxation, join_failure
from e3relax_flows.prerelax.relax import find_manager, make_uuid
from e3relax_flows.prerelax.starts import is_reusable, take_start
from e3relax_flows.schemas.outcomes import OutcomeDoc, StartKind, identify_outcome
from e3relax_flows.schemas.predictions import PredictionDoc

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ChunkEntry:
    """One relaxation of a chunk.

    Attributes
    ----------
    prediction, kind
        Where it begins.
    name
        Of the relaxation, unique and reproducible; uuids of its jobs are derived from it.
    flow
        Uuid of the flow that relaxes it, stored in its claim.
    retry_failed
        Whether an outcome that failed is tried again.
    """

    prediction: PredictionDoc
    kind: StartKind
    name: str
    flow: str | None = None
    retry_failed: bool = False

    @property
    def owner(self) -> str:
        """Uuid of the job that records it."""
        return make_uuid(self.name)


def relax_chunk(
    engine: Engine,
    entries: Sequence[ChunkEntry],
    workspace: Workspace,
    jobs: JobStore,
    on_outcome: Callable[[OutcomeDoc], None] | None = None,
) -> dict[str, OutcomeDoc | None]:
    """Relax the candidates of a chunk whose outcomes are not known and that no other flow relaxes.

    Killed at any moment and called again, it continues after the last recorded outcome. A relaxation that
    fails, reaches its time limit, or cannot be recorded does not affect others. The documents are those of jobs that
    relax one candidate each: the document of the potential in the job store, the outcome in its store.

    Parameters
    ----------
    engine
        One that relaxes chunks.
    entries
        Relaxations; duplicates run once.
    workspace
        Stores of outcomes and claims.
    jobs
        Store of the documents of the relaxations.
    on_outcome
        Called with each newly recorded outcome.

    Returns
    -------
    outcomes
        By id; None if another flow relaxes it.

    Raises
    ------
    StoreError
        When outcomes could not be recorded, after all were tried; the documents of their relaxations are kept.
    """
    chosen = {
        identify_outcome(entry.prediction.prediction_id, engine.engine_id, entry.kind): entry for entry in entries
    }
    outcomes, claimed = _claim_open(chosen, workspace)
    unrecorded: list[str] = []
    try:
        for key, result in _relax(engine, claimed, jobs):
            try:
                outcomes[key] = outcome = _record(result, key, claimed[key], workspace)
            except Exception as error:  # the boundary between relaxations
                unrecorded.append(_log_unrecorded(key, claimed[key], error))
                continue
            del claimed[key]
            if on_outcome is not None:
                on_outcome(outcome)
    finally:
        for key, entry in claimed.items():  # interrupted: free for the process that continues
            release_claims(workspace.claims, [key], entry.owner)
    if unrecorded:
        raise StoreError(
            f"{len(unrecorded)} of {len(chosen)} outcomes could not be recorded ({unrecorded[0]}); correct that and "
            "run the same again: what was relaxed is in the job store"
        )
    return {key: outcomes[key] for key in chosen}


def _log_unrecorded(key: str, entry: ChunkEntry, error: Exception) -> str:
    """Log that an outcome could not be recorded; return why, with the candidate."""
    logger.warning("outcome %s of candidate %s: not recorded, %s", key, entry.prediction.id, error)
    return f"{entry.prediction.id!r}: {type(error).__name__}: {error}"


def _record(outcome: OutcomeDoc | Exception, key: str, entry: ChunkEntry, workspace: Workspace) -> OutcomeDoc:
    """Write an outcome and release its claim; raise what was raised in its place."""
    if isinstance(outcome, Exception):
        raise outcome
    outcome.metadata |= describe_relaxation(entry.prediction, entry.kind)
    save_outcomes(workspace.outcomes, [outcome], replace_failed=True)
    release_claims(workspace.claims, [key], entry.owner)
    return outcome


def _claim_open(
    chosen: dict[str, ChunkEntry], workspace: Workspace
) -> tuple[dict[str, OutcomeDoc | None], dict[str, ChunkEntry]]:
    """Outcomes that are known or of another flow, and new claims, by id."""
    found = find_outcomes(workspace.outcomes, list(chosen))
    outcomes: dict[str, OutcomeDoc | None] = {}
    claimed: dict[str, ChunkEntry] = {}
    for key, entry in chosen.items():
        known = found.get(key)
        recorded_by = None if known is None else known.metadata.get(CLAIM_KEY)
        if known is not None and (recorded_by == entry.owner or is_reusable(known, entry.retry_failed)):
            outcomes[key] = known
            logger.info("outcome %s of candidate %s: known, %s", key, entry.prediction.id, known.state)
            if recorded_by == entry.owner:  # killed before it released it
                release_claims(workspace.claims, [key], entry.owner)
        elif _claim(workspace, key, entry, recorded_by):
            claimed[key] = entry
        else:
            outcomes[key] = None
    return outcomes, claimed


def _claim(workspace: Workspace, key: str, entry: ChunkEntry, recorded_by: str | None) -> bool:
    claim = ClaimDoc(claim_id=key, owner=entry.owner, flow=entry.flow, manager=find_manager())
    holder = take_claim(workspace.claims, claim, recorded_by)
    if holder is None:
        logger.info(
            "outcome %s of candidate %s: claimed by %s, start %s", key, entry.prediction.id, entry.owner, entry.kind
        )
    else:
        logger.info("outcome %s of candidate %s: claimed by %s", key, entry.prediction.id, holder.describe())
    return holder is None


def _relax(engine: Engine, entries: dict[str, ChunkEntry], jobs: JobStore) -> Any:
    """Outcome of each relaxation as it ends, by id, or its error; documents are written into the job store first."""
    keys, structures = [], []
    found = _find_documents(engine, entries, jobs)
    for key, entry in list(entries.items()):
        if key in found:
            yield key, _finish(engine, entry, found[key])
            continue
        try:
            structures.append(take_start(entry.prediction, entry.kind))
            keys.append(key)
        except Exception as error:  # a prediction without structure
            yield key, error
    parts = find_large_parts(engine) if keys else {}
    for index, document in relax_structures(engine, structures):
        key = keys[index]
        entry = entries[key]
        if not isinstance(document, Exception):
            try:
                _save_document(engine, entry, document, jobs, parts)
            except Exception as error:  # one that the store rejects
                document = error
        yield key, _finish(engine, entry, document)


def _finish(engine: Engine, entry: ChunkEntry, document: Any) -> OutcomeDoc:
    uuids = [_name_job(engine, entry)]
    if isinstance(document, Exception):
        outcome = join_failure(engine, entry.prediction, entry.kind, document, uuids)
    else:
        try:
            result = engine.read([document])
            outcome = join_outcome(entry.prediction, entry.kind, engine.name, engine.engine_id, result, None, uuids)
        except Exception as error:  # an unreadable document affects this candidate only
            outcome = join_failure(engine, entry.prediction, entry.kind, error, uuids)
    outcome.hosts = [entry.flow] if entry.flow else []
    outcome.metadata = {CLAIM_KEY: entry.owner}
    return outcome


def _name_job(engine: Engine, entry: ChunkEntry) -> str:
    return make_uuid(f"{entry.name}:{engine.engine_id}")


def _find_documents(engine: Engine, entries: dict[str, ChunkEntry], jobs: JobStore) -> dict[str, Any]:
    """Documents, by id, of finished relaxations without an outcome."""
    keys = {_name_job(engine, entry): key for key, entry in entries.items()}
    found = {}
    for uuid in [raw["uuid"] for raw in jobs.query({"uuid": {"$in": list(keys)}, "output": {"$ne": None}}, ["uuid"])]:
        try:
            whole = jobs.query_one({"uuid": uuid}, load=True)
        except KeyError:  # a large part is missing: it was killed between the two
            continue
        found[keys[uuid]] = whole["output"] if whole else None
    return found


def _save_document(engine: Engine, entry: ChunkEntry, document: Any, jobs: JobStore, parts: dict[str, Any]) -> None:
    """Write the document of a relaxation in the form of a job for this candidate alone."""
    raw = {
        "uuid": _name_job(engine, entry),
        "index": 1,
        "output": jsanitize(document, strict=True, enum_values=True, allow_bson=True),
        "completed_at": datetime.now().isoformat(),
        "metadata": {**describe_relaxation(entry.prediction, entry.kind), CLAIM_KEY: entry.owner},
        "hosts": [entry.flow] if entry.flow else [],
        "name": engine.maker.name,
    }
    jobs.update(raw, key=["uuid", "index"], save=parts)
