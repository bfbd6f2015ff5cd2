"""Flows of a screen: one per chunk to predict, one per candidate to relax; named by their content."""

from __future__ import annotations

from jobflow import Flow, Job

from e3relax_flows.engines.base import iterate_jobs
from e3relax_flows.prerelax.ordering import DepthFirstFlow
from e3relax_flows.prerelax.relax import make_uuid
from e3relax_flows.schemas.outcomes import OutcomeState
from e3relax_flows.schemas.screens import OutcomeRow, ScreenDoc, ScreenRow
from e3relax_flows.screening.jobs import claim_candidate, predict_chunk


def build_chunk_flow(screen_id: str, number: int) -> Flow:
    """The flow that predicts one chunk."""
    return Flow([predict_chunk(screen_id, number)], name=f"e3r chunk {number}")


def build_candidate_flow(screen: ScreenDoc, row: ScreenRow) -> Flow:
    """The flow that relaxes a candidate from its starts without an outcome."""
    retry = bool(screen.maker.get("retry_failed")) or row.attempt > 0
    claims: list[Flow | Job] = [
        claim_candidate(row, planned.start_kind, retry) for planned in row.outcomes if is_open(planned)
    ]
    return DepthFirstFlow(claims, name=f"e3r candidate {row.id}")


def build_launch_flow(screen: ScreenDoc, row: ScreenRow) -> Flow | None:
    """The same flow for one process that runs all of it: launched again it has the same uuids, and continues.

    None when all outcomes are known.
    """
    if not any(map(is_open, row.outcomes)):
        return None
    built = build_candidate_flow(screen, row)
    claims: list[Flow | Job] = []
    for claim in iterate_jobs(built):
        claim.hosts = []
        claim.set_uuid(make_uuid(f"{name_candidate(row)}:{claim.metadata['start_kind']}"))
        claim.config.expose_store = True
        claims.append(claim)
    return DepthFirstFlow(claims, name=built.name, uuid=name_launch_flow(row))


def is_open(planned: OutcomeRow) -> bool:
    """Whether no outcome document exists; if one could not be written, the row holds the failure."""
    return planned.state is None or (planned.state == OutcomeState.FAILED and planned.recorded is None)


def name_launch_flow(row: ScreenRow) -> str:
    """Uuid of `build_launch_flow`."""
    return make_uuid(name_candidate(row))


def name_chunk(screen_id: str, number: int) -> str:
    """Content id of the flow of a chunk."""
    return f"{screen_id}:chunk:{number}"


def name_candidate(row: ScreenRow) -> str:
    """Content id of the flow of a candidate; another attempt is another flow."""
    return f"{row.row_key}:{row.attempt}"
