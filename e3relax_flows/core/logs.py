"""Where the package's log is printed: on stderr, from the level on that the setting LOG_LEVEL names."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from typing import Literal

PACKAGE = "e3relax_flows"
FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"

LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR"]


class StderrHandler(logging.Handler):
    """Lines on what is stderr at that moment, so that they stand above a progress bar and not in it."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one line."""
        try:
            print(self.format(record), file=sys.stderr, flush=True)
        except Exception:  # the rule of logging: a handler never breaks what it listens to
            self.handleError(record)


def show_log(level: LogLevel | None) -> None:
    """Let what the package logs be seen from a level on.

    Nothing is printed twice: where the process prints its log already, only the level of the package is set.

    Parameters
    ----------
    level
        None: nothing is changed, and warnings alone reach stderr, as Python prints them.
    """
    if level is None:
        return
    logger = logging.getLogger(PACKAGE)
    logger.setLevel(level)
    if not logger.hasHandlers():
        handler = StderrHandler()
        handler.setFormatter(logging.Formatter(FORMAT))
        logger.addHandler(handler)


def hide_log() -> None:
    """Take back what `show_log` has set."""
    logger = logging.getLogger(PACKAGE)
    logger.setLevel(logging.NOTSET)
    logger.handlers[:] = [handler for handler in logger.handlers if not isinstance(handler, StderrHandler)]


def format_counts(counts: Mapping[str, int]) -> str:
    """Such as "3 accept, 1 refuse", the most frequent first; "none" where there is nothing."""
    found = sorted((item for item in counts.items() if item[1]), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count} {name}" for name, count in found) or "none"
