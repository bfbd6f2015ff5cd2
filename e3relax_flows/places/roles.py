"""Assign roles: write into every job of a flow, and into jobs created by it, which workers may run it."""

from __future__ import annotations

from collections.abc import Mapping

from jobflow import Flow, Job

from e3relax_flows.core.roles import ROLE_RULES, Role, WorkerConfig
from e3relax_flows.places.kinds import PlaceKind


def assign_roles(flow: Flow | Job, workers: Mapping[Role, WorkerConfig], place: PlaceKind) -> None:
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
        One without a manager reads no roles, and nothing is written.
    """
    if not workers or place.express is None:
        return
    for part, role in ROLE_RULES:
        config = place.express(workers[role]) if role in workers else {}
        flow.update_config({"manager_config": config, "pass_manager_config": False}, name_filter=part, dynamic=True)
