"""Which failed candidates of a screen are tried again: all, or those whose error contains a text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from e3relax_flows.core.errors import ConfigError
from e3relax_flows.schemas.outcomes import OutcomeState
from e3relax_flows.schemas.screens import CandidateState, OutcomeRow, ScreenRow

MAX_ERRORS = 5  # that a message lists
MAX_LENGTH = 120  # characters of each


def matches_error(message: str | None, text: str | None) -> bool:
    """Whether an error contains a text, in capitals or not; no text is in every error."""
    return text is None or text.casefold() in (message or "").casefold()


def is_retried(planned: OutcomeRow, text: str | None) -> bool:
    """Whether a relaxation failed with an error that contains `text`."""
    return planned.state == OutcomeState.FAILED and matches_error(planned.message, text)


def select_retried(rows: Iterable[ScreenRow], text: str | None) -> list[ScreenRow]:
    """Rows without those that failed with other errors alone."""
    return [
        row
        for row in rows
        if row.state != CandidateState.FAILED or any(matches_error(error, text) for error in _list_errors(row))
    ]


def check_error_text(rows: Sequence[ScreenRow], text: str | None, screen_id: str) -> None:
    """Raise ConfigError where no failed row has an error with `text`; the message lists the errors there are."""
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
    """Errors of the relaxations that failed; the row's own where none was planned."""
    failed = [planned.message for planned in row.outcomes if planned.state == OutcomeState.FAILED]
    return failed or [row.message]
