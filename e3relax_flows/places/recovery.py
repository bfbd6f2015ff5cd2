"""Recover a launchpad after kills: stale locks, lost runs and reservations, incomplete workflows, orphaned fireworks.

FireWorks' own `detect_lostruns --rerun` stops at the first workflow that a killed worker has left locked, ignores
fireworks that were checked out and never launched, and makes dependents of a lost run treat it as failed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import Any

from e3relax_flows.core.errors import StoreError
from e3relax_flows.core.optional import require
from e3relax_flows.core.settings import E3RelaxSettings, load_settings
from e3relax_flows.ledger.claims import find_claims, hold_submission, open_claim_store, release_claims
from e3relax_flows.places.kinds import FIREWORKS
from e3relax_flows.places.launchpad import FLOW_KEY, GONE, find_existing, open_launchpad, remove_workflow

SHOWN = 5
WRONG_CLOCK_S = 1e7  # pings of stopped workers may be so far in the future
DONE = ("COMPLETED", *GONE)

logger = logging.getLogger(__name__)


@dataclass
class Recovery:
    """Findings, by ids of fireworks unless noted; all are repaired unless it was a dry run."""

    locked: list[int] = field(default_factory=list)  # first node of workflows that a worker left locked
    unapplied: list[int] = field(default_factory=list)  # done, but its detours are missing; run again
    finished: list[int] = field(default_factory=list)  # done, but not marked as done; marked now
    lost: list[int] = field(default_factory=list)  # running in no worker; run again
    reserved: list[int] = field(default_factory=list)  # checked out and never launched; run again
    orphaned: list[int] = field(default_factory=list)  # without workflow; removed
    incomplete: list[int] = field(default_factory=list)  # first node of workflows without all fireworks; removed
    claims: list[str] = field(default_factory=list)  # of flows that are over; released
    unknown_claims: list[str] = field(default_factory=list)  # of flows that are not here; left unless requested
    n_failed: int = 0  # fireworks that failed by themselves; left

    def describe(self) -> list[str]:
        """Lines for the user; empty if there was nothing to do."""
        words = {
            "locked": "workflows were locked and are unlocked",
            "unapplied": "jobs were done, but their detours were missing: they run again",
            "finished": "jobs were done and are marked as done",
            "lost": "jobs were lost: they run again",
            "reserved": "jobs were checked out and never launched: they can be launched again",
            "orphaned": "fireworks had no workflow and were removed",
            "incomplete": "workflows were incomplete and were removed: submit them again",
            "claims": "claims of flows that are over were released",
            "unknown_claims": "claims are of flows that are not on this launchpad; --release-unknown releases them",
        }
        lines = [f"{len(found)} {words[name]}" for name in words if (found := getattr(self, name))]
        if self.n_failed:
            lines.append(f"{self.n_failed} jobs failed by themselves and are left; see `lpad get_fws -s FIZZLED`")
        return lines

    @property
    def n_repaired(self) -> int:
        """Number of repairs, done or in a dry run planned."""
        left = ("n_failed", "unknown_claims")
        return sum(len(getattr(self, item.name)) for item in fields(self) if item.name not in left)


def recover_launchpad(
    settings: E3RelaxSettings | None = None,
    *,
    silent_s: float | None = None,
    workers_stopped: bool = False,
    dry_run: bool = False,
    release_unknown: bool = False,
    pause_s: float = 5.0,
) -> Recovery:
    """Repair the launchpad after killed workers and submissions; refuse while workers ping.

    Parameters
    ----------
    settings
        None: read now.
    silent_s
        A job whose worker has not pinged for this time is lost; None: FireWorks' RUN_EXPIRATION_SECS.
    workers_stopped
        The user states that no worker runs: every running job is lost.
    dry_run
        Only report what would be done.
    release_unknown
        Release claims of flows that are not on this launchpad, too.
    pause_s
        Time between two inspections; fireworks that change in between are active, and left.

    Raises
    ------
    StoreError
        When workers are alive, or the launchpad cannot be reached.
    """
    settings = settings or load_settings()
    config = require("fireworks.fw_config", "fireworks", "e3relax screen recover")
    silent_s = float(config.RUN_EXPIRATION_SECS) if silent_s is None else silent_s
    with hold_submission(settings), open_launchpad("e3relax screen recover") as pad:
        before, pings = _look(pad), _read_pings(pad)
        time.sleep(pause_s)
        _refuse_if_alive(pad, pings, silent_s, workers_stopped)
        recovery = _keep_common(before, _look(pad))
        lost_after = -WRONG_CLOCK_S if workers_stopped else silent_s
        recovery.lost = sorted(pad.detect_lostruns(expiration_secs=lost_after)[1])
        recovery.lost = [number for number in recovery.lost if number not in {*recovery.finished, *recovery.unapplied}]
        if not dry_run:
            _repair(pad, recovery, lost_after)
        recovery.n_failed = pad.fireworks.count_documents({"state": "FIZZLED"})
        _release(pad, settings, recovery, dry_run, release_unknown)
    return recovery


def _look(pad: Any) -> Recovery:
    """Problems at this moment, apart from lost runs."""
    recovery = Recovery()
    nodes: list[int] = []
    for workflow in pad.workflows.find({}, {"nodes": 1, "locked": 1, "fw_states": 1}):
        nodes += workflow["nodes"]
        if workflow.get("locked"):
            recovery.locked.append(min(workflow["nodes"]))
            recovery.unapplied += _find_unapplied(pad, workflow)
    existing = find_existing(pad, nodes)
    known = set(nodes)
    recovery.orphaned = [item["fw_id"] for item in pad.fireworks.find({}, {"fw_id": 1}) if item["fw_id"] not in known]
    missing = known - existing
    if missing:
        recovery.incomplete = [
            min(item["nodes"]) for item in pad.workflows.find({"nodes": {"$in": list(missing)}}, {"nodes": 1})
        ]
    reserved = pad.fireworks.find({"state": "RESERVED", "launches": {"$size": 0}}, {"fw_id": 1})
    recovery.reserved = [item["fw_id"] for item in reserved]
    for number in pad.detect_lostruns(expiration_secs=10**9)[2]:  # running, of which a launch has ended
        states = _list_launch_states(pad, number)
        if "RUNNING" in states:  # launched again; its pings show whether that is lost
            continue
        (recovery.finished if "COMPLETED" in states else recovery.unapplied).append(number)
    return recovery


def _find_unapplied(pad: Any, workflow: dict[str, Any]) -> list[int]:
    """Fireworks that are done by themselves and not by their workflow, to which their detours may be missing."""
    done = pad.fireworks.find({"fw_id": {"$in": workflow["nodes"]}, "state": "COMPLETED"}, {"fw_id": 1})
    states = workflow.get("fw_states", {})
    return [item["fw_id"] for item in done if states.get(str(item["fw_id"]), "COMPLETED") != "COMPLETED"]


def _list_launch_states(pad: Any, fw_id: int) -> set[str]:
    ids = pad.fireworks.find_one({"fw_id": fw_id}, {"launches": 1})["launches"]
    return {launch["state"] for launch in pad.launches.find({"launch_id": {"$in": ids}}, {"state": 1})}


def _keep_common(first: Recovery, second: Recovery) -> Recovery:
    """Problems at both inspections."""
    common = Recovery()
    for item in fields(Recovery):
        if item.name != "n_failed":
            earlier = set(getattr(first, item.name))
            setattr(common, item.name, [entry for entry in getattr(second, item.name) if entry in earlier])
    return common


def _read_pings(pad: Any) -> dict[int, tuple[datetime, str]]:
    """When running launches have pinged last, by the clocks of their workers, and what they are, in words."""
    found = {}
    for launch in pad.launches.find({"state": "RUNNING"}, {"launch_id": 1, "fw_id": 1, "host": 1, "state_history": 1}):
        times = [entry.get("updated_on", entry["created_on"]) for entry in launch["state_history"]]
        words = f"firework {launch['fw_id']} on {launch.get('host') or 'an unknown host'}"
        found[launch["launch_id"]] = (max(_read_time(moment) for moment in times), words)
    return found


def _refuse_if_alive(pad: Any, before: dict[int, tuple[datetime, str]], silent_s: float, workers_stopped: bool) -> None:
    """Raise when a running launch has pinged since `before`, or, unless workers are stopped, within `silent_s`."""
    alive = []
    limit = datetime.fromtimestamp(time.time() - silent_s, UTC)
    for launch, (last, words) in _read_pings(pad).items():
        # a launch that has changed since is alive, whatever the clock of its worker
        has_pinged = launch not in before or before[launch][0] != last
        if has_pinged or (last > limit and not workers_stopped):
            alive.append(f"{words} at {last:%H:%M:%S}")
    if alive:
        more = f" and {len(alive) - SHOWN} more" if len(alive) > SHOWN else ""
        raise StoreError(
            f"workers have pinged in the last {silent_s:.0f} s ({'; '.join(alive[:SHOWN])}{more}), and their jobs "
            "must not run twice; wait until they are done or silent for longer, or stop them and type "
            "`e3relax screen recover --workers-stopped`"
        )


def _read_time(moment: Any) -> datetime:
    """A time of FireWorks, which is UTC."""
    value = moment if isinstance(moment, datetime) else datetime.fromisoformat(str(moment))
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def _repair(pad: Any, recovery: Recovery, lost_after: float) -> None:
    """Repair the findings, in this order: a lock blocks all later steps, and orphans could be launched."""
    for item in fields(Recovery):
        if found := getattr(recovery, item.name):
            logger.info("launchpad: %s %s", item.name, ", ".join(map(str, found)))
    pad.fireworks.delete_many({"fw_id": {"$in": recovery.orphaned}})
    for node in recovery.incomplete:
        workflow = pad.workflows.find_one({"nodes": node}, {"nodes": 1})
        remove_workflow(pad, workflow["nodes"])
    pad.workflows.update_many({"nodes": {"$in": recovery.locked}}, {"$unset": {"locked": True}})
    # _refresh_wf is what `lpad detect_lostruns --refresh` calls
    for number in recovery.finished:
        pad._refresh_wf(number)
    if recovery.lost:
        pad.detect_lostruns(expiration_secs=lost_after, rerun=True, query={"fw_id": {"$in": recovery.lost}})
    for number in (*recovery.unapplied, *recovery.reserved):
        pad.rerun_fw(number)
    for node in recovery.locked:
        for number in _find_stalled(pad, node):
            pad._refresh_wf(number)


def _find_stalled(pad: Any, node: int) -> list[int]:
    """Fireworks of a workflow that wait although all their parents have ended."""
    workflow = pad.workflows.find_one({"nodes": node}, {"nodes": 1, "links": 1})
    found = pad.fireworks.find({"fw_id": {"$in": workflow["nodes"]}}, {"fw_id": 1, "state": 1})
    states = {item["fw_id"]: item["state"] for item in found}
    parents: dict[int, list[int]] = {}
    for parent, children in workflow["links"].items():
        for child in children:
            parents.setdefault(child, []).append(int(parent))
    return [
        number
        for number, state in states.items()
        if state == "WAITING" and all(states[parent] in ("COMPLETED", "FIZZLED") for parent in parents.get(number, []))
    ]


def _release(pad: Any, settings: E3RelaxSettings, recovery: Recovery, dry_run: bool, release_unknown: bool) -> None:
    """Release abandoned claims: their flow is over, and its relaxations have not recorded them."""
    with open_claim_store(settings) as claims:
        held = [claim for claim in find_claims(claims).values() if claim.manager == FIREWORKS.name]
        states = _find_states(pad, {str(claim.flow) for claim in held})
        for claim in held:
            if not (state := states.get(str(claim.flow))):
                recovery.unknown_claims.append(claim.claim_id)
            elif all(word in DONE for word in state):
                recovery.claims.append(claim.claim_id)
        if release_unknown:
            recovery.claims += recovery.unknown_claims
            recovery.unknown_claims = []
        if recovery.claims and not dry_run:
            release_claims(claims, recovery.claims)


def _find_states(pad: Any, flows: Iterable[str]) -> dict[str, list[str]]:
    """States of the workflows by uuid of their flow."""
    states: dict[str, list[str]] = {}
    query = {f"metadata.{FLOW_KEY}": {"$in": list(flows)}}
    for workflow in pad.workflows.find(query, {"metadata": 1, "state": 1}):
        states.setdefault(workflow["metadata"][FLOW_KEY], []).append(workflow["state"])
    return states
