"""What the job store holds of the jobs of a claimed relaxation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from e3relax_flows.core.roles import Role, find_role
from e3relax_flows.ledger.claims import CLAIM_KEY

if TYPE_CHECKING:
    from jobflow import Job, JobStore


def is_recorded(job: Job, store: JobStore) -> bool:
    """Whether a job of a claimed relaxation has left an output, and every large part of it, in the job store."""
    if CLAIM_KEY not in job.metadata or find_role(job.name) != Role.DFT:
        return False
    try:
        # a job that was replaced by others leaves None
        found = store.query_one({"uuid": job.uuid, "index": job.index, "output": {"$ne": None}}, load=True)
    except KeyError:  # a large part is missing: it was killed between the two
        return False
    return found is not None
