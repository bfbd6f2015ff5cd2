"""Candidates of a screen that are relaxed together in one job, if the engine supports it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from jobflow import JobStore

from e3relax_flows.core.errors import StoreError
from e3relax_flows.ledger.store import find_predictions
from e3relax_flows.ledger.workspace import Workspace
from e3relax_flows.places.local import JobReport
from e3relax_flows.prerelax.chunk import ChunkEntry, relax_chunk
from e3relax_flows.prerelax.record import OUTCOME_JOB
from e3relax_flows.prerelax.relax import make_uuid
from e3relax_flows.schemas.outcomes import OutcomeDoc, OutcomeState
from e3relax_flows.schemas.screens import ScreenDoc, ScreenRow
from e3relax_flows.screening.flows import is_open, name_candidate
from e3relax_flows.screening.jobs import read_maker
from e3relax_flows.stores.opening import describe_store

AT_ONCE = 20  # most candidates of one job
LAUNCHES = 16  # fewer candidates than this times AT_ONCE are divided into smaller jobs, for more workers

OnJob = Callable[[JobReport], None]

logger = logging.getLogger(__name__)


def split_rows(screen: ScreenDoc, maker: Any, rows: Sequence[ScreenRow]) -> list[list[ScreenRow]]:
    """Candidates by job; one per job if the engine does not relax many together, or if hours are counted."""
    is_one = not maker.engine.relaxes_chunks or screen.limits.core_hours is not None
    size = 1 if is_one else min(max(len(rows) // LAUNCHES, 1), AT_ONCE)
    return [list(rows[start : start + size]) for start in range(0, len(rows), size)]


def relax_rows(
    screen: ScreenDoc, rows: Sequence[ScreenRow], workspace: Workspace, jobs: JobStore, on_job: OnJob | None = None
) -> list[JobReport]:
    """Relax candidates here from all starts without an outcome; return the errors that no outcome holds.

    A missing prediction or an unrecorded outcome does not affect other candidates; see `relax_chunk`.
    """
    maker = read_maker(screen)
    predictions = find_predictions(workspace.predictions, [str(row.prediction_id) for row in rows])
    entries: list[ChunkEntry] = []
    broken: list[JobReport] = []
    for row in rows:
        if (prediction := predictions.get(str(row.prediction_id))) is None:
            error = (
                f"prediction {row.prediction_id!r} is not in {describe_store(workspace.predictions)}; all workers must "
                "share their stores: compare `e3relax doctor` on them"
            )
            logger.warning("candidate %s of screen %s: %s", row.id, row.screen_id, error)
            broken.append(_report_broken(name_candidate(row), error))
            continue
        flow = row.submitted.flow if row.submitted else None
        build = partial(
            ChunkEntry,
            prediction.model_copy(update={"id": row.id}),
            flow=flow,
            retry_failed=maker.retry_failed or row.attempt > 0,
        )
        entries += [
            build(kind=planned.start_kind, name=f"{name_candidate(row)}:{planned.start_kind.value}")
            for planned in row.outcomes
            if is_open(planned)
        ]
    report = None if on_job is None else partial(_report, maker.engine.maker.name, on_job)
    try:
        relax_chunk(maker.engine, entries, workspace, jobs, report)
    except StoreError as error:
        logger.warning("screen %s: %s", screen.screen_id, error)
        broken.append(_report_broken(name_candidate(rows[0]), str(error)))
    if on_job is not None:
        for failure in broken:
            on_job(failure)
    return broken


def _report_broken(name: str, error: str) -> JobReport:
    return JobReport(OUTCOME_JOB, make_uuid(name), 1, error, error, {})


def _report(name: str, on_job: OnJob, outcome: OutcomeDoc) -> None:
    """Report an outcome in the form of its jobs."""
    uuid = next(iter(outcome.job_uuids), "")
    if outcome.state == OutcomeState.FAILED:
        on_job(JobReport(name, uuid, 1, outcome.message, outcome.message, outcome.metadata))
    on_job(JobReport(OUTCOME_JOB, uuid, 1, None, None, outcome.metadata))
