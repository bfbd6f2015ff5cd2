"""Reasons to stop before the end: signals and the walltime; the present step is finished first."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from types import FrameType, TracebackType
from typing import Any, Self

EXIT_CONTINUE = 75  # EX_TEMPFAIL: stopped on purpose and saved; run the same command again to continue
TIME_LEFT = re.compile(r"(?:(?:(\d+)-)?(\d+):)?(\d+):(\d+)")  # [days-]hours:minutes:seconds, minutes:seconds
SQUEUE_S = 30
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


def find_deadline(walltime_hours: float | None, stop_minutes: float, environ: Mapping[str, str] | None = None) -> float:
    """Unix time at which to stop: `margin` minutes before the walltime, counted from now, or before SLURM's end.

    Without either it is infinite.
    """
    environ = os.environ if environ is None else environ
    if walltime_hours is not None:
        return time.time() + 3600 * walltime_hours - 60 * stop_minutes
    end = environ.get("SLURM_JOB_END_TIME", "")
    if end.isdigit():
        return float(end) - 60 * stop_minutes
    job = environ.get("SLURM_JOB_ID", "")
    left = ask_time_left(job) if job.isdigit() else None
    return float("inf") if left is None else time.time() + left - 60 * stop_minutes


def ask_time_left(job: str) -> float | None:
    """Remaining seconds of an allocation by `squeue`, for SLURM before 23.02; None: no limit."""
    try:
        command = ["squeue", "--noheader", "--jobs", job, "--format", "%L"]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=SQUEUE_S, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = TIME_LEFT.fullmatch(answer.strip())
    if found is None:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return ((24.0 * days + hours) * 60 + minutes) * 60 + seconds


class StopRequest:
    """Notes SIGTERM, SIGUSR1 (what SLURM sends with --signal), Ctrl-C and the deadline, while it is entered.

    A second Ctrl-C interrupts. Signals are only handled in the main thread; elsewhere only the deadline applies.
    """

    def __init__(self, deadline: float = float("inf")) -> None:
        self.deadline = deadline
        self._signal: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, self._before[number])
        self._signal = number

    @property
    def reason(self) -> str | None:
        """Reason to stop; None: continue."""
        if self._signal is not None:
            return signal.Signals(self._signal).name
        return "walltime" if time.time() >= self.deadline else None
