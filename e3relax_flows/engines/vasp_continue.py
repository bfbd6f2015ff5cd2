"""Continue a VASP relaxation that used up its steps from where it ended, a limited number of times."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from jobflow import Flow, Job, JobConfig, Maker, OnMissing, Response, job

from e3relax_flows.core.errors import EngineError
from e3relax_flows.engines.base import get_entry, iterate_jobs, read_plain, read_structure
from e3relax_flows.engines.vasp_documents import is_relaxation

CONTINUED = "continued"

logger = logging.getLogger(__name__)


def add_continuation(flow: Flow, times: int) -> Flow:
    """Add a job that continues the last relaxation of `flow` where it did not converge.

    Raises
    ------
    EngineError
        When the flow ends with another calculation, which would have run on the unconverged structure.
    """
    last, maker = [(each, each.maker) for each in iterate_jobs(flow) if each.maker is not None][-1]
    if "relax" not in maker.name.lower():
        raise EngineError(
            f"the last calculation of flow {flow.name!r} is {last.name!r}, so that an unconverged relaxation before it "
            "cannot be continued; give a maker that ends with its relaxation, or continuations=0"
        )
    more = continue_relaxation(last.output, maker, times)
    more.config = JobConfig(on_missing_references=OnMissing.NONE)
    return Flow([flow, more], output=flow.output, name=flow.name)


def is_continuation(job_: Job) -> bool:
    """Whether a job continues a relaxation."""
    return job_.name == "continue_relaxation"


def list_documents(documents: list[Any]) -> list[Any]:
    """Documents in order, those of continuations among them."""
    found: list[Any] = []
    for document in documents:
        more = document.get(CONTINUED) if isinstance(document, Mapping) else None
        found += more if more is not None else [document]
    return found


@job
def continue_relaxation(document: Any, maker: Maker, left: int) -> Response:
    """Relax again from the end of `document` where that is unconverged, at most `left` times."""
    structure = read_structure(document, "structure") if document is not None else None
    unfinished = document is not None and is_relaxation(document) and read_plain(document, "state") != "successful"
    if not left or not unfinished or structure is None:
        return Response(output={CONTINUED: []})
    folder = get_entry(document, "dir_name")
    logger.info("relaxation in %s: not converged, continued, %d continuations left", folder, left - 1)
    again = maker.make(structure, prev_dir=folder)
    rest = continue_relaxation(again.output, maker, left - 1)
    both = gather_continued(again.output, rest.output)
    for each in (rest, both):
        each.config = JobConfig(on_missing_references=OnMissing.NONE)
    return Response(replace=Flow([again, rest, both], output=both.output))


@job
def gather_continued(document: Any, rest: Any) -> dict[str, list[Any]]:
    """Documents of a continuation and of those after it."""
    return {CONTINUED: [document, *(get_entry(rest, CONTINUED) or [])]}
