"""OnceJobTask: jobflow's firetask, which does not relax again what was relaxed before its worker was killed."""

from __future__ import annotations

from typing import Any

from fireworks import FWAction
from jobflow import SETTINGS
from jobflow.managers.fireworks import JobFiretask

from e3relax_flows.ledger.claims import is_recorded


class OnceJobTask(JobFiretask):
    """Run a job, unless it belongs to a claimed relaxation and its whole output is in the job store.

    A worker that is killed after its job has stored the output and before the launchpad knows has done the work: the
    job, run again by `e3relax screen recover` or `lpad rerun_fws`, ends at once. To have a relaxation calculated anew,
    remove its document from the job store. Jobs that are born while a job runs get the same firetask.
    """

    _fw_name = "{{e3relax_flows.places.one_task.OnceJobTask}}"

    def run_task(self, fw_spec: dict[str, Any]) -> FWAction:
        """Do it, or find it done."""
        store = self.get("store") or SETTINGS.JOB_STORE
        store.connect()
        if is_recorded(self["job"], store):
            return FWAction()
        action = super().run_task(fw_spec)
        for workflow in (*action.detours, *action.additions):
            run_once(workflow)
        return action


def run_once(workflow: Any) -> Any:
    """Give the jobs of a workflow, in place, the firetask that relaxes once; the workflow."""
    for firework in workflow.fws:
        firework.tasks = [OnceJobTask(task) if type(task) is JobFiretask else task for task in firework.tasks]
    return workflow
