"""A flow that finishes one candidate after the other if jobs are run one by one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from jobflow import Flow, Job
from networkx import lexicographical_topological_sort

from e3relax_flows.engines.base import iterate_jobs


class DepthFirstFlow(Flow):
    """A flow that yields its jobs in their order of listing, as far as their references allow.

    jobflow yields all jobs without parents first. Run one by one, all relaxations of a screen would then be over
    before the first outcome is recorded, and a killed run would have no outcomes. Managers that run jobs in
    parallel see the same jobs and parents. Serialised it is a plain flow, since jobflow-remote knows no other class.
    """

    def as_dict(self) -> dict[str, Any]:
        """Dictionary of a plain flow with the same jobs."""
        return {**super().as_dict(), "@module": Flow.__module__, "@class": Flow.__name__}

    def iterflow(self) -> Iterator[tuple[Job, list[str]]]:
        """Jobs with the uuids of their parents, parents first."""
        graph: Any = self.graph
        position = {job.uuid: number for number, job in enumerate(iterate_jobs(self))}
        known = [node for node in graph.nodes if node in position]
        for uuid in lexicographical_topological_sort(graph.subgraph(known), key=position.__getitem__):
            parents = [parent for parent, _ in graph.in_edges(uuid) if "job" in graph.nodes[parent]]
            yield graph.nodes[uuid]["job"], parents
