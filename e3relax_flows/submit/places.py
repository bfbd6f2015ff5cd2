"""Hand a flow to those who run it elsewhere: a FireWorks launchpad, or jobflow-remote."""

from __future__ import annotations

from contextlib import closing
from typing import Literal

from jobflow import Flow
from jobflow.settings import JobflowSettings

from e3relax_flows.core.errors import ConfigError, StoreError
from e3relax_flows.core.optional import require

Place = Literal["local", "fireworks", "remote"]
PLACES = ("local", "fireworks", "remote")


def submit_flow(flow: Flow, where: Place) -> str:
    """Submit a flow; gives what to type to see how it does.

    Parameters
    ----------
    flow
        The flow.
    where
        "fireworks": the launchpad of `lpad`, as found by FireWorks' own configuration. "remote": jobflow-remote's
        current project. Workers read their stores from their own configuration, so no secret is written into a job.

    Raises
    ------
    ConfigError
        When there is no such place, or jobs would write their outputs where no other process sees them.
    StoreError
        When the launchpad cannot be reached.
    """
    if where == "fireworks":
        _check_job_store()
        return _submit_to_fireworks(flow)
    if where == "remote":
        return _submit_to_remote(flow)
    raise ConfigError(f"{where!r} is no place to submit to; known: {', '.join(PLACES)}")


def _check_job_store() -> None:
    if "JOB_STORE" not in JobflowSettings().model_fields_set:
        raise ConfigError(
            "jobs on a launchpad run in processes that share nothing but the job store, and none is configured; "
            "describe one as JOB_STORE in ~/.jobflow.yaml (see jobflow's documentation), here and on the workers"
        )


def _submit_to_fireworks(flow: Flow) -> str:
    launchpads = require("fireworks", "fireworks", "--submit fireworks").LaunchPad
    convert = require("jobflow.managers.fireworks", "fireworks", "--submit fireworks").flow_to_workflow
    errors = require("pymongo.errors", "fireworks", "--submit fireworks")
    workflow = convert(flow)
    try:
        launchpad = launchpads.auto_load()
        with closing(launchpad.connection):
            ids = launchpad.add_wf(workflow)
    except ValueError as error:
        raise StoreError(f"the launchpad takes no workflow ({error}); a new one is set up with `lpad reset`") from error
    except errors.PyMongoError as error:
        raise StoreError(
            f"the launchpad cannot be reached ({error}); write my_launchpad.yaml with `lpad init`, point "
            "FW_CONFIG_FILE at it, and start its MongoDB server"
        ) from error
    first = min(ids.values())
    return f"{len(ids)} fireworks on the launchpad; see: lpad get_wflows -i {first} -d more"


def _submit_to_remote(flow: Flow) -> str:
    submit = require("jobflow_remote", "remote", "--submit remote").submit_flow
    ids = submit(flow)
    return f"{len(ids)} jobs submitted to jobflow-remote; see: jf flow list -did {ids[0]}"
