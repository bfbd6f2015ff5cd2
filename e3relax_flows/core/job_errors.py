"""Errors of jobs that failed in this process, for the job that records the outcome of a relaxation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_ERRORS: ContextVar[dict[str, str] | None] = ContextVar("job_errors", default=None)


@contextmanager
def collect_job_errors() -> Iterator[None]:
    """Keep errors that are noted within, until the end of it."""
    token = _ERRORS.set({})
    try:
        yield
    finally:
        _ERRORS.reset(token)


def note_job_error(uuid: str, error: str) -> None:
    """Keep the error of a job as one line, if errors are collected."""
    errors = _ERRORS.get()
    if errors is not None:
        errors[uuid] = error


def find_job_error(uuid: str) -> str | None:
    """The error of a job that failed in this process; None if it is not known."""
    return (_ERRORS.get() or {}).get(uuid)
