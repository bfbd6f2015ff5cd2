"""Ready jobs by category or worker, and the time of the last ping of a worker."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

from e3relax_flows.places.remote import RemotePlace

LOCK_MINUTES = 10  # jobflow-remote's locks never expire
ANY = "any worker"  # of jobs without a category


def describe_launchpad_activity(pad: Any) -> list[str]:
    """Lines on the launchpad: jobs ready by category, jobs that run, and since when no worker has pinged."""
    ready: Counter[str] = Counter()
    for item in pad.fireworks.find({"state": "READY"}, {"spec._category": 1}):
        ready[str(item.get("spec", {}).get("_category") or ANY)] += 1
    running = pad.launches.count_documents({"state": "RUNNING"})
    lines = [_describe_ready("launchpad", ready, running)]
    last = find_last_ping(pad)
    if ready and not running:
        seen = "no worker has ever run here" if last is None else f"no worker has pinged since {_describe_age(last)}"
        lines.append(
            f"{seen}: start workers, such as `rlaunch -w FWORKER.yaml rapidfire --nlaunches infinite`, with these "
            "categories"
        )
    elif running and last is not None:
        lines.append(f"a worker has last pinged {_describe_age(last)}")
    return lines


def find_last_ping(pad: Any) -> datetime | None:
    """Time of the last write of a worker of a launchpad; UTC."""
    running = list(pad.launches.find({"state": "RUNNING"}, {"state_history": 1}))
    latest = running or list(pad.launches.find({}, {"state_history": 1}, sort=[("launch_id", -1)], limit=1))
    times = [
        entry.get("updated_on") or entry["created_on"] for launch in latest for entry in launch["state_history"][-1:]
    ]
    moments = [time if isinstance(time, datetime) else datetime.fromisoformat(str(time)) for time in times]
    return max((moment.replace(tzinfo=moment.tzinfo or UTC) for moment in moments), default=None)


def describe_remote_activity(place: RemotePlace) -> list[str]:
    """Lines on a project of jobflow-remote: jobs ready by worker, and whether its runner runs."""
    ready: Counter[str] = Counter()
    for item in place.controller.jobs.find({"state": "READY"}, {"worker": 1}):
        ready[str(item.get("worker") or ANY)] += 1
    running = place.controller.jobs.count_documents({"state": {"$in": ["SUBMITTED", "RUNNING", "BATCH_RUNNING"]}})
    lines = [_describe_ready(f"project {place.project.name!r}", ready, running)]
    failed = place.controller.jobs.count_documents({"state": "REMOTE_ERROR"})
    if failed:
        lines.append(f"{failed} jobs could not be sent to their worker or retrieved: see `jf job list -s REMOTE_ERROR`")
    old = datetime.now(UTC) - timedelta(minutes=LOCK_MINUTES)
    locked = place.controller.jobs.count_documents({"lock_id": {"$ne": None}, "lock_time": {"$lt": old}})
    if locked:
        lines.append(
            f"{locked} jobs are locked for more than {LOCK_MINUTES} min, as a killed runner leaves them; type "
            "`jf runner stop`, `jf admin unlock`, `jf admin unlock-flow` and `jf runner start`"
        )
    seen = find_runner_ping(place.controller)
    if (ready or running) and seen is None:
        lines.append("no runner has taken this project: start it with `jf runner start`")
    elif (ready or running) and seen is not None:
        lines.append(f"its runner has last pinged {_describe_age(seen)}; see `jf runner status`")
    return lines


def find_runner_ping(controller: Any) -> datetime | None:
    """Time of the last write of the runner of a project; None if none runs. UTC."""
    document = controller.auxiliary.find_one({"running_runner": {"$exists": True}}) or {}
    runner = document.get("running_runner")
    time = runner.get("last_pinged") or runner.get("start_time") if isinstance(runner, dict) else None
    return time.replace(tzinfo=time.tzinfo or UTC) if isinstance(time, datetime) else None


def _describe_ready(where: str, ready: Counter[str], running: int) -> str:
    counts = ", ".join(f"{count} {name}" for name, count in sorted(ready.items())) or "none"
    return f"{where}: jobs ready: {counts}; {running} running"


def _describe_age(moment: datetime) -> str:
    minutes = max(0.0, (datetime.now(UTC) - moment).total_seconds() / 60)
    age = f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.0f} h"
    return f"{moment:%Y-%m-%d %H:%M} UTC ({age} ago)"
