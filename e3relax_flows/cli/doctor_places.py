"""Checks of `e3relax doctor --place`: the manager, its database, its workers, and the needs of submitted jobs."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from e3relax_flows.cli.doctor import Finding, run_check

if TYPE_CHECKING:
    from e3relax_flows.core.settings import E3RelaxSettings
    from e3relax_flows.places.kinds import PlaceKind

SETTINGS_HINT = "correct WORKERS in ~/.e3relax.yaml; configs/e3relax.yaml shows it"


def check_place_needs(place: str) -> list[Finding]:
    """Package, database and workers of a place, and the stores that its workers share.

    Raises
    ------
    ConfigError
        When the place is unknown.
    """
    from e3relax_flows.core.settings import load_settings
    from e3relax_flows.places.kinds import FIREWORKS, REMOTE, WITH_WORKERS, find_kind
    from e3relax_flows.places.submission import check_place

    where, settings = find_kind(check_place(place, WITH_WORKERS)), load_settings()
    checks = {FIREWORKS: check_launchpad_rows, REMOTE: check_remote_rows}
    return [
        *run_check(partial(check_package, where)),
        *run_check(partial(checks[where], settings)),
        *run_check(partial(check_shared_stores, where, settings)),
    ]


def check_package(place: PlaceKind) -> list[Finding]:
    """Whether the manager is installed."""
    from importlib.metadata import version
    from importlib.util import find_spec

    module = place.package
    if find_spec(module) is None:
        return [Finding(place.name, "failed", "not installed", f"pip install 'e3relax-flows[{place.name}]'")]
    return [Finding(place.name, "ok", version(module.replace("_", "-")))]


def check_launchpad_rows(settings: E3RelaxSettings) -> list[Finding]:
    """The launchpad, and whether files of workers offer the categories of the roles."""
    from e3relax_flows.places.activity import describe_launchpad_activity
    from e3relax_flows.places.launchpad import open_launchpad

    with open_launchpad("doctor --place fireworks") as pad:
        where = pad.host if pad.uri_mode else f"{pad.host}:{pad.port}/{pad.name}"
        rows = [Finding("launchpad", "ok", f"{where}; {'; '.join(describe_launchpad_activity(pad))}")]
        known = {category for entry in pad.launches.distinct("fworker.category") for category in _as_list(entry)}
    offered = known | set(_list_offered())
    asked = {role: worker.category for role, worker in settings.WORKERS.items() if worker.category}
    for role, category in asked.items():
        if category in offered:
            rows.append(Finding(f"category {category}", "ok", f"required by role {role}"))
        else:
            there = ", ".join(sorted(filter(None, offered))) or "none"
            rows.append(Finding(
                f"category {category}", "failed", f"required by role {role}; no worker's file offers it ({there})",
                f"write it into `category` of a file like configs/fireworks/fworker_cpu.yaml, or {SETTINGS_HINT}",
            ))  # fmt: skip
    return rows


def check_remote_rows(settings: E3RelaxSettings) -> list[Finding]:
    """The project of jobflow-remote, its database and runner, and whether it has the workers of the roles."""
    from e3relax_flows.places.activity import describe_remote_activity
    from e3relax_flows.places.checks import check_remote_project, check_remote_store
    from e3relax_flows.places.remote import open_remote

    with open_remote("doctor --place remote") as place:
        if place.controller.auxiliary.find_one({"next_id": {"$exists": True}}) is None:
            return [
                Finding("project", "failed", f"{place.project.name}: not set up", "set it up with `jf admin reset`")
            ]
        rows = [Finding("project", "ok", f"{place.project.name}; {'; '.join(describe_remote_activity(place))}")]
        problems = [*check_remote_project(place.project, settings.WORKERS), *check_remote_store(place.project, [])]
    return [*rows, *(_make_row("roles", problem) for problem in problems)]


def check_shared_stores(place: PlaceKind, settings: E3RelaxSettings) -> list[Finding]:
    """Whether workers can open the stores of this machine."""
    from e3relax_flows.places.checks import check_job_store, check_stores

    problems = [*check_stores(settings, place), *check_job_store(settings, place, [])]
    rows = [_make_row("stores of workers", problem) for problem in problems]
    return rows or [Finding("stores of workers", "ok", "on a server that they reach by name")]


def _make_row(what: str, problem: Any) -> Finding:
    return Finding(what, "failed" if problem.is_fatal else "missing", problem.message)


def _list_offered() -> Iterator[str]:
    """Categories in the files of workers next to my_launchpad.yaml and in FireWorks' configuration."""
    from pathlib import Path

    import yaml
    from fireworks import fw_config

    files = {Path(path) for path in (fw_config.FWORKER_LOC,) if path}
    for folder in {Path(path).parent for path in (fw_config.LAUNCHPAD_LOC, fw_config.FWORKER_LOC) if path}:
        files |= set(folder.glob("*fworker*.yaml"))
    for path in sorted(files):
        content = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else None
        if isinstance(content, dict):
            yield from filter(None, _as_list(content.get("category")))


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
