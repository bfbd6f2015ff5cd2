"""Assign roles: write into every job of a flow, and into jobs created by it, which workers may run it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from jobflow import Flow, Job

from e3relax_flows.core.roles import ROLE_RULES, Role, WorkerConfig


def assign_roles(flow: Flow | Job, workers: Mapping[Role, WorkerConfig], place: str) -> None:
    """Write the roles into a flow, in the form of its manager.

    Jobs that are created while the flow runs get the configuration of their own role, not that of the job that creates
    them: a job created by a light job or on a GPU goes to the workers of its role. Without any worker configured the
    flow stays as it is.

    Parameters
    ----------
    flow
        Changed in place.
    workers
        Of the settings; a role without an entry may run anywhere.
    place
        "fireworks" or "remote"; for others nothing is written.
    """
    express: dict[str, Callable[[WorkerConfig], dict[str, Any]]] = {
        "fireworks": WorkerConfig.express_for_fireworks,
        "remote": WorkerConfig.express_for_remote,
    }
    if not workers or place not in express:
        return
    for part, role in ROLE_RULES:
        config = express[place](workers[role]) if role in workers else {}
        flow.update_config({"manager_config": config, "pass_manager_config": False}, name_filter=part, dynamic=True)
