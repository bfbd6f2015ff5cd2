"""The consoles of the command line: results on stdout, messages and progress on stderr."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from e3relax_flows.schemas.displays import format_number as format_number

if TYPE_CHECKING:
    from e3relax_flows.candidates.reading import ReadItem

T = TypeVar("T")
LOG_WIDTH = 120  # columns if the output is not a terminal and COLUMNS is not set
LINE_EVERY_S = 5.0

STYLES = {
    "accept": "green",
    "successful": "green",
    "ok": "green",
    "refuse": "yellow",
    "unconverged": "yellow",
    "duplicate": "yellow",
    "skipped": "yellow",
    "missing": "yellow",
    "error": "red",
    "failed": "red",
}


def _make_console(stderr: bool = False) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else LOG_WIDTH
    return Console(stderr=stderr, width=width)


out = _make_console()
err = _make_console(stderr=True)


def print_line(text: str) -> None:
    """Print one line of results, never parsed as markup."""
    out.print(plain(text), soft_wrap=True)


def print_error(message: str) -> None:
    """Print one message on stderr."""
    err.print(Text.assemble(("error: ", "bold red"), message), soft_wrap=True)


def show_notes(items: Iterable[ReadItem]) -> Iterator[ReadItem]:
    """The same items; warnings of their parsers are printed on stderr."""
    for item in items:
        if item.note is not None:
            err.print(Text.assemble(("warning: ", "bold yellow"), f"{item.id}: {item.note}"), soft_wrap=True)
        yield item


def print_json(content: Any) -> None:
    """Print one JSON document on stdout; messages go to stderr."""
    print(json.dumps(content, indent=1))


def plain(text: str) -> Text:
    """Text that is never parsed as markup."""
    return Text(text)


def color_word(word: str) -> Text:
    """A verdict or state in its color; never parsed as markup."""
    return Text(word, style=STYLES.get(word, ""))


def make_progress() -> Progress:
    """Progress on stderr with counts, rate and time left: a bar that disappears, or lines if it is not a terminal."""
    if not err.is_terminal:
        return LineProgress(console=err, disable=True)
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        RateColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        console=err,
        transient=True,
    )


def format_rate(speed: float | None) -> str:
    """Such as "120/s" or "15 s each"; empty while it is unknown."""
    if not speed:
        return ""
    return f"{speed:.0f}/s" if speed >= 10 else f"{speed:.1f}/s" if speed >= 1 else f"{1 / speed:.0f} s each"


class RateColumn(ProgressColumn):
    """Rate of a task."""

    def render(self, task: Task) -> Text:
        """Its rate."""
        return Text(format_rate(task.finished_speed or task.speed))


class LineProgress(Progress):
    """Progress for logs: a line after progress if the last line is some seconds old, and at the end."""

    _last = 0.0

    def add_task(self, description: str, *args: Any, **fields: Any) -> TaskID:
        """Add a task; one without a known end has its first line after some seconds."""
        if fields.get("total") is None:
            self._last = time.monotonic()
        return super().add_task(description, *args, **fields)

    def update(self, task_id: TaskID, **changes: Any) -> None:
        """Update the task as usual and maybe print a line."""
        before = self._tasks[task_id].completed
        super().update(task_id, **changes)
        task = self._tasks[task_id]
        if task.completed <= before:
            return
        now = time.monotonic()
        is_whole = task.total is not None and task.completed >= task.total
        if is_whole or now - self._last >= LINE_EVERY_S:
            self._last = now
            count = f"{task.completed:.0f}" + ("" if task.total is None else f"/{task.total:.0f}")
            rate = f", {text}" if (text := format_rate(task.finished_speed or task.speed)) else ""
            left = f", about {task.time_remaining:.0f} s left" if task.time_remaining else ""
            note = f" | {task.fields['note']}" if task.fields.get("note") else ""
            self.console.print(Text(f"{task.description}: {count}{rate}{left}{note}"), soft_wrap=True)


def follow(items: Iterable[T], description: str) -> Iterator[T]:
    """The items one by one, counted on stderr."""
    with make_progress() as progress:
        task = progress.add_task(description, total=None, note="")
        for item in items:
            yield item
            progress.update(task, advance=1)


class _ConsoleHandler(logging.Handler):
    """Messages as plain lines on stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        err.print(Text(record.getMessage(), style="dim"), soft_wrap=True)


@contextmanager
def show_log(name: str) -> Iterator[None]:
    """Print what a part of the package logs, such as the progress of a training inside a job, on stderr."""
    logger, handler = logging.getLogger(name), _ConsoleHandler()
    level, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate


@contextmanager
def hide_warnings() -> Iterator[None]:
    """Hide the warnings of other packages, on which users cannot act."""
    with warnings.catch_warnings():
        if not sys.warnoptions:
            warnings.simplefilter("ignore")
        yield
