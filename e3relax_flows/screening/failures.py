"""Select candidates to try again: lost ones, and failed ones, all or those whose error contains a text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from e3relax_flows.core.errors import ConfigError
from e3relax_flows.schemas.outcomes import OutcomeState
from e3relax_flows.schemas.predictions import Reason
from e3relax_flows.schemas.screens import CandidateState, OutcomeRow, ScreenRow

MAX_ERRORS = 5  # errors that a message lists
MAX_LENGTH = 120  # characters of each


def can_go_on(row: ScreenRow, retry_failed: bool) -> bool:
    """Whether a candidate that has ended, or was never begun, can be tried again.

    An error of its input is final: the same input gives the same error. A candidate that a store or a worker lost
    has no verdict. Between the two are failures of the network, such as a cell too large for the memory of a GPU:
    these are tried again with `retry_failed`.
    """
    if row.chunk is None:  # never read
        return False
    if row.state != CandidateState.ERROR or row.verdict is None:
        return True
    return retry_failed and Reason.FAILED in row.reasons


def matches_error(message: str | None, text: str | None) -> bool:
    """Whether an error contains a text, in any case; None matches every error."""
    return text is None or text.casefold() in (message or "").casefold()


def is_retried(planned: OutcomeRow, text: str | None) -> bool:
    """Whether a relaxation failed with an error that contains `text`."""
    return planned.state == OutcomeState.FAILED and matches_error(planned.message, text)


def select_retried(rows: Iterable[ScreenRow], text: str | None) -> list[ScreenRow]:
    """Rows without those that failed only with other errors."""
    return [
        row
        for row in rows
        if row.state != CandidateState.FAILED or any(matches_error(error, text) for error in _list_errors(row))
    ]


def check_error_text(rows: Sequence[ScreenRow], text: str | None, screen_id: str) -> None:
    """Raise ConfigError if no failed row has an error with `text`; the message lists the errors."""
    failed = [row for row in rows if row.state == CandidateState.FAILED]
    if text is None or select_retried(failed, text):
        return
    counts = Counter(error for row in failed for error in _list_errors(row) if error)
    listed = "; ".join(f"{count} × {error[:MAX_LENGTH]}" for error, count in counts.most_common(MAX_ERRORS))
    raise ConfigError(
        f"no failed candidate of screen {screen_id} has {text!r} in its error ({len(failed)} failed"
        + (f": {listed})" if listed else ")")
    )


def _list_errors(row: ScreenRow) -> list[str | None]:
    """Errors of the relaxations that failed; the row's own if none was planned."""
    failed = [planned.message for planned in row.outcomes if planned.state == OutcomeState.FAILED]
    return failed or [row.message]
