"""OnceJobTask: jobflow's firetask that does not repeat finished relaxations, and runs several jobs in one launch."""

from __future__ import annotations

import logging
import sys
import traceback
from typing import Any

from fireworks import Firework, FWAction, Workflow
from jobflow import SETTINGS
from jobflow.managers.fireworks import JobFiretask

from e3relax_flows.ledger.claims import BEGIN_KEY, END_KEY, ERRORS_KEY, is_recorded

WORKER_ENTRIES = ("_category", "_fworker", "_queueadapter", "_priority")  # of a spec: which workers may run it

logger = logging.getLogger(__name__)


class OnceJobTask(JobFiretask):
    """Run a job, unless it belongs to a claimed relaxation and its whole output is in the job store.

    A worker that is killed after its job has stored the output and before the launchpad is updated has done the work:
    the job, run again by `e3relax screen recover` or `lpad rerun_fws`, ends at once. To repeat a relaxation,
    remove its document from the job store. Jobs that are created while a job runs get the same firetask.

    A candidate waits in the queue once for each calculation. The launch of the claim runs the first calculation too,
    if the same workers may take it, and the launch of the last calculation records the outcome. Should a
    calculation fail, its error is in the output of its launch and in the outcome.

    Parameters
    ----------
    job, store
        As in jobflow's firetask.
    then
        Job that records the outcome in this launch, whether `job` failed or not.
    """

    _fw_name = "{{e3relax_flows.places.one_task.OnceJobTask}}"
    optional_params: tuple[str, ...] = ("then",)

    def run_task(self, fw_spec: dict[str, Any]) -> FWAction:
        """Run the job, unless it is done already.

        Raises
        ------
        Exception
            The error of the job, after its outcome was recorded.
        """
        if (then := self.get("then")) is None:
            return self._run(fw_spec)
        ending, error = OnceJobTask(job=then, store=self.get("store")), None
        try:
            action = self._run(fw_spec)
        except Exception as caught:
            action, error = FWAction(), caught
            _note_error([ending], self["job"].uuid, caught)
        if action.detours or action.additions:  # the job that records the outcome waits for these
            last = Firework([ending], {**fw_spec, "_allow_fizzled_parents": True}, then.name)
            return FWAction(action.stored_data, detours=[_put_before(Workflow([last]), action)])
        ending.run_task(fw_spec)
        if error is not None:
            raise error
        return action

    def _run(self, fw_spec: dict[str, Any]) -> FWAction:
        store = self.get("store") or SETTINGS.JOB_STORE
        store.connect()
        if is_recorded(self["job"], store):
            logger.info("job %s (%s): done before, it does not run again", self["job"].uuid, self["job"].name)
            return FWAction()
        action = super().run_task(fw_spec)
        for workflow in (*action.detours, *action.additions):
            run_once(workflow)
        if self["job"].metadata.get(BEGIN_KEY):
            begun = [_begin(workflow, fw_spec) for workflow in action.detours]
            action.detours = [workflow for workflow in begun if workflow is not None]
        return action


def run_once(workflow: Any) -> Any:
    """Change the firetasks of a workflow in place to OnceJobTask; return the workflow."""
    for firework in workflow.fws:
        firework.tasks = [OnceJobTask(task) if type(task) is JobFiretask else task for task in firework.tasks]
    return workflow


def _begin(workflow: Workflow, fw_spec: dict[str, Any]) -> Workflow | None:
    """Run the first job of a relaxation now; return the rest of its workflow."""
    roots = workflow.root_fw_ids
    first = workflow.id_fw[roots[0]]
    if len(roots) > 1 or any(first.spec.get(entry) != fw_spec.get(entry) for entry in WORKER_ENTRIES):
        return _join_end(workflow)
    (task,) = first.tasks
    rest = _leave_out(workflow, first)
    try:
        follow = task.run_task({**fw_spec, **first.spec})
    except Exception as error:  # the outcome holds the error; the jobs that follow run in any case
        traceback.print_exc(file=sys.stderr)
        _note_error([task for firework in workflow.fws for task in firework.tasks], task["job"].uuid, error)
        follow = FWAction()
    if follow.detours or follow.additions:
        return _join_end(_put_before(rest, follow)) if rest else _put_before(None, follow)
    if rest is None:
        return None
    if len(rest.fws) > 1:
        return _join_end(rest)
    rest.fws[0].tasks[0].run_task({**fw_spec, **rest.fws[0].spec})
    return None


def _join_end(workflow: Workflow) -> Workflow:
    """Let the job that records the outcome run in the launch of the one job that it waits for."""
    ends = [firework for firework in workflow.fws if firework.tasks[0]["job"].metadata.get(END_KEY)]
    for end in ends:
        parents = [parent for parent, children in workflow.links.items() if end.fw_id in children]
        if len(parents) != 1 or len(workflow.links[parents[0]]) != 1 or workflow.links[end.fw_id]:
            continue
        before, (task,) = workflow.id_fw[parents[0]], end.tasks
        before.tasks = [type(before.tasks[0])({**before.tasks[0], "then": task["job"]})]
        joined = _leave_out(workflow, end)
        assert joined is not None, "its parent is left"
        workflow = joined
    return workflow


def _note_error(tasks: list[Any], uuid: str, error: Exception) -> None:
    """Pass the error of an earlier job to the jobs of tasks."""
    logger.info("job %s: failed, its outcome will have the error: %s: %s", uuid, type(error).__name__, error)
    for task in tasks:
        task["job"].metadata.setdefault(ERRORS_KEY, {})[uuid] = f"{type(error).__name__}: {error}"


def _leave_out(workflow: Workflow, firework: Firework) -> Workflow | None:
    """A workflow without one of its fireworks, of which it must be a root or a leaf; None: it was the only one."""
    fireworks = [other for other in workflow.fws if other is not firework]
    for other in fireworks:
        other.parents = []  # the links hold them
    links = {
        parent: [child for child in children if child != firework.fw_id]
        for parent, children in workflow.links.items()
        if parent != firework.fw_id
    }
    return Workflow(fireworks, links, workflow.name, workflow.metadata) if fireworks else None


def _put_before(workflow: Workflow | None, action: FWAction) -> Workflow:
    """A workflow whose roots wait for all that an action adds."""
    added = [*action.detours, *action.additions]
    parts = [*added, *([workflow] if workflow else [])]
    links = {parent: list(children) for part in parts for parent, children in part.links.items()}
    roots = workflow.root_fw_ids if workflow else []
    for leaf in [leaf for part in added for leaf in part.leaf_fw_ids]:
        links[leaf] = [*links.get(leaf, []), *roots]
    return Workflow([firework for part in parts for firework in part.fws], links, parts[-1].name)
