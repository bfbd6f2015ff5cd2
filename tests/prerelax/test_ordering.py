"""DepthFirstFlow: one candidate after the other, with the jobs and parents that jobflow knows."""

from __future__ import annotations

from jobflow import Flow, job
from jobflow.managers.fireworks import flow_to_workflow
from monty.json import MontyDecoder

from e3relax_flows.prerelax.ordering import DepthFirstFlow


@job
def relax(start: str) -> str:
    """Stand-in for a relaxation."""
    return start


@job
def record(results: list[str]) -> list[str]:
    """Stand-in for the job that records an outcome."""
    return results


def build_jobs(names: str) -> tuple[list[Flow], list]:
    flows = []
    for name in names:
        first = relax(name)
        first.name = f"first {name}"
        second = relax(first.output)
        second.name = f"second {name}"
        outcome = record([second.output])
        outcome.name = f"outcome {name}"
        flows.append(Flow([Flow([first, second], output=second.output), outcome], output=outcome.output))
    collector = record([flow.output for flow in flows])
    collector.name = "collector"
    return flows, [*flows, collector]


def test_a_candidate_ends_before_the_next_begins():
    _, jobs = build_jobs("abc")
    names = [job.name for job, _ in DepthFirstFlow(jobs).iterflow()]
    assert names == [f"{kind} {name}" for name in "abc" for kind in ("first", "second", "outcome")] + ["collector"]


def test_references_go_before_the_order_of_listing():
    first, second = relax("x"), relax("y")
    third = record([second.output])
    names = [job.uuid for job, _ in DepthFirstFlow([third, first, second]).iterflow()]
    assert names.index(second.uuid) < names.index(third.uuid)
    assert len(names) == 3


def test_jobs_and_parents_are_those_of_jobflow():
    _, jobs = build_jobs("ab")
    flow = DepthFirstFlow(jobs)
    ours = {job.uuid: sorted(parents) for job, parents in flow.iterflow()}
    theirs = {job.uuid: sorted(parents) for job, parents in super(DepthFirstFlow, flow).iterflow()}
    assert ours == theirs
    assert len(flow_to_workflow(flow).fws) == 7


def test_written_down_it_is_a_flow_that_every_manager_reads():
    """jobflow-remote takes what is not called Flow for a job."""
    _, jobs = build_jobs("ab")
    flow = DepthFirstFlow(jobs)
    copy = MontyDecoder().process_decoded(flow.as_dict())
    assert type(copy) is Flow
    assert {job.uuid: set(parents) for job, parents in copy.iterflow()} == {
        job.uuid: set(parents) for job, parents in flow.iterflow()
    }
