"""Claims: the owner of a relaxation or submission, so that two processes that start together do it once."""

from __future__ import annotations

import logging
import os
import platform
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from maggma.core import Store
from maggma.stores import MemoryStore, MongoStore
from pydantic import BaseModel, Field

from e3relax_flows.core.errors import StoreError
from e3relax_flows.core.roles import Role, find_role
from e3relax_flows.core.settings import E3RelaxSettings
from e3relax_flows.stores.opening import build_store, connect_store, describe_store, find_by_id, write_documents
from e3relax_flows.stores.pool import SettingsLike, shared
from e3relax_flows.stores.sqlite import SQLiteStore

if TYPE_CHECKING:
    from jobflow import Job, JobStore


SUBMISSION_CLAIM, SUBMISSION_MINUTES = "submission", 30.0
PATIENCE_S = 60.0

CLAIM_KEY = "claim"  # in the metadata of jobs and outcomes: uuid of the job that claimed the relaxation
BEGIN_KEY = "begin"  # of claim jobs: the manager may begin the relaxation in the same launch
END_KEY = "end"  # of jobs that record an outcome: the manager may run it in the launch of the last calculation
ERRORS_KEY = "job_errors"  # of jobs that follow: errors of jobs that ran in the launch of the claim, by uuid
CLAIM_DAYS = 14.0  # a relaxation may wait long in a queue; `e3relax screen recover` releases abandoned claims

logger = logging.getLogger(__name__)


class ClaimDoc(BaseModel):
    """One claim; found by `claim_id`, the id of what is claimed."""

    claim_id: str
    owner: str = Field(description="job or process that owns it; it may claim it again")
    flow: str | None = Field(None, description="uuid of the outermost flow of the job")
    manager: str | None = Field(
        None, description="manager that continues the work when the process ends, such as fireworks; None: no manager"
    )
    host: str = Field(default_factory=platform.node)
    pid: int = Field(default_factory=os.getpid)
    claimed_at: float = Field(default_factory=time.time, description="seconds since 1970")
    expires_at: float = Field(default_factory=lambda: time.time() + CLAIM_DAYS * 86400)

    def describe(self) -> str:
        """The owner, in words."""
        since = time.strftime("%Y-%m-%d %H:%M", time.localtime(self.claimed_at))
        return f"{self.owner} on {self.host} since {since}"


@shared
def open_claim_store(settings: E3RelaxSettings) -> Store:
    """The store of claims, beside the outcomes, connected, closed at the end.

    Where the outcomes are in a store that cannot write atomically, claims are kept in memory and bind this process
    only; the logger of this module warns of it.

    Raises
    ------
    ConfigError
        When the store of outcomes is described wrongly.
    StoreError
        When it cannot be reached.
    """
    spec = settings.OUTCOME_STORE
    collection = f"{(spec or {}).get('collection_name', 'outcomes')}_claims"
    if spec and "collection_name" in spec:
        spec = {**spec, "collection_name": collection}
    store = build_store(spec, settings, collection, "claim_id")
    if not isinstance(store, SQLiteStore | MongoStore):
        logger.warning(
            "OUTCOME_STORE %s cannot write atomically, so that claims bind this process only: two processes may relax "
            "the same candidate; use {type: MongoStore, ...} or leave OUTCOME_STORE out for the embedded store",
            describe_store(store),
        )
        store = MemoryStore(collection, key="claim_id")
    return connect_store(store, [], "OUTCOME_STORE")


def take_claim(store: Store, claim: ClaimDoc, over: str | None = None) -> ClaimDoc | None:
    """Take a claim; None if it was free, otherwise the claim of the present owner.

    One of several processes that try at the same moment succeeds. Times are those of the server, if any, so that hosts
    whose clocks are wrong agree. A claim is free when it is the own one, when it has expired,
    or when its process was on this host, has ended, and no manager continues its work.

    Parameters
    ----------
    store
        From `open_claim_store`.
    claim
        The new claim with its owner.
    over
        A previous owner that has finished, and may have left its claim.
    """
    wrong_by = time.time() - read_clock(store)
    claim = claim.model_copy(
        update={"claimed_at": claim.claimed_at - wrong_by, "expires_at": claim.expires_at - wrong_by}
    )
    free: list[dict[str, Any]] = [{"owner": claim.owner}, {"expires_at": {"$lte": claim.claimed_at}}]
    if over is not None:
        free.append({"owner": over})
    holder = find_claims(store, [claim.claim_id]).get(claim.claim_id)
    if holder and is_abandoned(holder):
        logger.info("claim %s: left by %s, whose process is gone", claim.claim_id, holder.describe())
        free.append({"owner": holder.owner, "claimed_at": holder.claimed_at})
    if write_documents(store, [claim.model_dump()], {"$or": free}):
        return None
    holder = find_claims(store, [claim.claim_id]).get(claim.claim_id)
    # released between the two: free, and taken by trying again
    again = {"claimed_at": claim.claimed_at + wrong_by, "expires_at": claim.expires_at + wrong_by}
    return holder or take_claim(store, claim.model_copy(update=again), over)


def read_clock(store: Store) -> float:
    """Seconds since 1970 by the clock of the store's server; without one, of this host."""
    if not isinstance(store, MongoStore) or isinstance(store, MemoryStore):
        return time.time()
    moment: datetime = store._collection.database.command("hello")["localTime"]
    return moment.replace(tzinfo=UTC).timestamp()


def release_claims(store: Store, ids: Iterable[str], owner: str | None = None) -> None:
    """Release claims: those of `owner`, or all."""
    names = list(ids)
    _remove_claims(store, names, owner)
    for name in names:
        logger.info("claim %s: released%s", name, f" by {owner}" if owner else "")


def _remove_claims(store: Store, names: list[str], owner: str | None) -> None:
    criteria: dict[str, Any] = {"claim_id": {"$in": names}}
    store.remove_docs(criteria if owner is None else {**criteria, "owner": owner})


def find_claims(store: Store, ids: Iterable[str] | None = None) -> dict[str, ClaimDoc]:
    """Claims by id: those of `ids` (None: all), expired ones too."""
    wanted = store.distinct("claim_id") if ids is None else list(ids)
    return find_by_id(store, wanted, ClaimDoc, "claim_id", None)


def is_abandoned(claim: ClaimDoc) -> bool:
    """Whether a claim is abandoned: it was bound to a process of this host that has ended."""
    return claim.manager is None and is_process_gone(claim.host, claim.pid)


def is_process_gone(host: str, pid: int) -> bool:
    """Whether a process was on this host and has ended; False for processes of other hosts."""
    if host != platform.node():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # it exists and belongs to another user
        return False
    return False


def is_live(claim: ClaimDoc) -> bool:
    """Whether a claim binds other owners."""
    return claim.expires_at > time.time() and not is_abandoned(claim)


@contextmanager
def hold_submission(settings: SettingsLike, what: str = SUBMISSION_CLAIM) -> Iterator[None]:
    """Keep other processes from submitting at the same time, so that a command typed twice at once submits once.

    Parameters
    ----------
    settings
        For the store of claims.
    what
        Name of the lock; only processes with the same name wait.

    Raises
    ------
    StoreError
        When another one submits for longer than a minute.
    """
    owner, deadline = f"submission {uuid.uuid4()}", time.monotonic() + PATIENCE_S
    with open_claim_store(settings) as claims:
        while True:
            claim = ClaimDoc(claim_id=what, owner=owner, expires_at=time.time() + 60 * SUBMISSION_MINUTES)
            holder = take_claim(claims, claim)
            if holder is None:
                break
            if time.monotonic() > deadline:
                raise StoreError(
                    f"another process is submitting ({holder.describe()}, process {holder.pid}); type this again when "
                    f"it is done; if it was killed, that is in {SUBMISSION_MINUTES:.0f} minutes at the latest"
                )
            time.sleep(0.2)
        try:
            yield
        finally:
            _remove_claims(claims, [what], owner)


def is_recorded(job: Job, store: JobStore) -> bool:
    """Whether a job of a claimed relaxation has left an output, and every large part of it, in the job store."""
    if CLAIM_KEY not in job.metadata or find_role(job.name) != Role.DFT:
        return False
    try:
        # a job that was replaced by others leaves None
        found = store.query_one({"uuid": job.uuid, "index": job.index, "output": {"$ne": None}}, load=True)
    except KeyError:  # a large part is missing: the job was killed between the two writes
        return False
    return found is not None
