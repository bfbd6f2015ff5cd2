"""Run a flow on this machine, one job after the other, and report failures."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import shorten
from typing import Any

from jobflow import CURRENT_JOB, Flow, Job, JobStore, Response, run_locally
from jobflow.core.flow import get_flow

from e3relax_flows.core.errors import E3RelaxError, StoppedError, collect_job_errors, note_job_error
from e3relax_flows.ledger.claims import open_claim_store
from e3relax_flows.stores.pool import open_pool

FINISHED = re.compile(r"Finished job - (?P<name>.*) \((?P<uuid>[0-9a-f-]{36})(?:, (?P<index>\d+))?\)$")
FAILED = re.compile(r"(?P<name>.*?) failed with exception:\n(?P<trace>.*)", re.DOTALL)

TRACEBACK = "Traceback (most recent call last):\n"
EXCEPTION = re.compile(r"^[A-Za-z_][\w.]*(?=:|$)", re.MULTILINE)  # its frames are indented

MAX_ERROR_LENGTH = 500

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class JobReport:
    """One job that has ended."""

    name: str
    uuid: str
    index: int
    error: str | None  # class and message of the exception, on one line; None: it finished
    traceback: str | None
    metadata: dict[str, Any]


@dataclass
class LocalRun:
    """Result of a local run."""

    responses: dict[str, dict[int, Response]]
    n_finished: int = 0
    failures: list[JobReport] = field(default_factory=list)


def run_flow_locally(
    flow: Flow | Job,
    store: JobStore,
    root_dir: Path,
    on_job_finished: Callable[[JobReport], None] | None = None,
) -> LocalRun:
    """Run a flow in new folders below `root_dir`; a failed job stops only those that depend on it.

    A job that a user stopped ends the run. Nothing is logged to the terminal; the working directory is restored.
    Relative paths of the settings have the same meaning in the folders of the jobs.

    Parameters
    ----------
    flow
        The flow, of which jobs may replace themselves by others.
    store, root_dir
        Store of the outputs, which the caller closes; folder in which each job gets a folder of its own.
    on_job_finished
        Called after each job, failed ones too.

    Raises
    ------
    StoppedError
        When a job was stopped by a user.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from pymatgen.core import Lattice, Structure
    >>> from e3relax_flows import isolate_stores, open_job_store, run_flow_locally
    >>> from e3relax_flows.testing import EmtEngine
    >>> copper = Structure(Lattice.rhombohedral(2.7, 60), ["Cu"], [[0, 0, 0]])
    >>> settings = isolate_stores(Path(tempfile.mkdtemp()))
    >>> with open_job_store(settings) as store:
    ...     run = run_flow_locally(EmtEngine().make(copper), store, Path("runs/copper"))
    >>> run.n_finished, run.failures
    (1, [])
    """
    root_dir.mkdir(parents=True, exist_ok=True)
    run = LocalRun(responses={})

    def note(report: JobReport) -> None:
        if report.error is None:
            run.n_finished += 1
        else:
            run.failures.append(report)
        if on_job_finished is not None:
            on_job_finished(report)

    flow = get_flow(flow)
    has_ended = False
    try:
        with collect_job_errors(), _watch_jobs(store, note), _pin_settings():
            run.responses = run_locally(flow, log=False, store=store, create_folders=True, root_dir=root_dir)
        has_ended = True
    finally:
        if not has_ended or any(failure.name.startswith("e3r ") for failure in run.failures):
            _release_claims(flow.uuid)
    return run


def _release_claims(flow: str) -> None:
    """Release unfinished claims of the jobs of a run, since this process may continue."""
    logger.info("flow %s: its claims are released", flow)
    with suppress(E3RelaxError), open_claim_store() as claims:
        claims.remove_docs({"flow": flow, "manager": None})


class _JobWatcher(logging.Handler):
    """Reads from jobflow's messages which jobs have finished or failed; its local manager has no callback."""

    def __init__(self, store: JobStore, note: Callable[[JobReport], None]) -> None:
        super().__init__(level=logging.INFO)
        self.store = store
        self.note = note

    def emit(self, record: logging.LogRecord) -> None:
        """Report the end of a job; an error of the callback is shown and does not stop jobs."""
        # jobflow logs a failure while it handles the exception; an exception raised here would end its run
        if isinstance(stopped := sys.exc_info()[1], StoppedError):
            raise stopped
        try:
            message = record.getMessage()
            if match := FINISHED.match(message):
                self._note_finished(match["name"], match["uuid"], int(match["index"] or 1))
            elif match := FAILED.match(message):
                self._note_failed(match["name"], match["trace"])
        except Exception:  # the rule of logging: a handler never raises
            self.handleError(record)

    def _note_finished(self, name: str, uuid: str, index: int) -> None:
        document = self.store.query_one({"uuid": uuid, "index": index}, ["metadata"]) or {}
        logger.info("job %s (%s, %d): finished", uuid, name, index)
        self.note(JobReport(name, uuid, index, None, None, document.get("metadata") or {}))

    def _note_failed(self, name: str, trace: str) -> None:
        # jobflow keeps a failed job, and removes a finished one before it logs it
        job = CURRENT_JOB.job
        logger.info("job %s (%s): failed", job.uuid if job else "unknown", name)
        last = trace[trace.rfind(TRACEBACK) + len(TRACEBACK) :] if TRACEBACK in trace else trace
        start = EXCEPTION.search(last)
        error = shorten(last[start.start() :] if start else last, MAX_ERROR_LENGTH)
        if job is None or job.name != name:
            self.note(JobReport(name, "", 1, error, trace, {}))
        else:
            note_job_error(job.uuid, error)
            self.note(JobReport(name, job.uuid, job.index, error, trace, dict(job.metadata)))
        CURRENT_JOB.reset()


@contextmanager
def _pin_settings() -> Iterator[None]:
    """Make the paths of the settings absolute in the environment, which the jobs read in folders of their own."""
    with open_pool() as pool:
        settings = pool.settings
    pinned = {"DATA_DIR": str(settings.DATA_DIR), "CONFIG_FILE": str(settings.CONFIG_FILE)}
    if Path(settings.MODEL).is_dir():
        pinned["MODEL"] = str(Path(settings.MODEL).absolute())
    for name in ("PREDICTION_STORE", "OUTCOME_STORE", "PAIR_STORE", "MODEL_STORE", "WEIGHTS_STORE"):
        if "path" in (spec := getattr(settings, name) or {}):
            pinned[name] = json.dumps(spec)
    before = {f"E3RELAX_{name}": os.environ.get(f"E3RELAX_{name}") for name in pinned}
    os.environ.update({f"E3RELAX_{name}": value for name, value in pinned.items()})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _watch_jobs(store: JobStore, note: Callable[[JobReport], None]) -> Iterator[None]:
    """Read jobflow's logger without output to the terminal; restore it afterwards."""
    logger = logging.getLogger("jobflow")
    level, propagate, handlers = logger.level, logger.propagate, logger.handlers[:]
    logger.handlers[:] = [_JobWatcher(store, note)]
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.handlers[:] = handlers
        logger.setLevel(level)
        logger.propagate = propagate
        CURRENT_JOB.reset()
