"""Keep warnings of libraries off stderr, or collect them for the message of a result."""

from __future__ import annotations

import functools
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@functools.cache
def drop_moyo_notes() -> None:
    """Drop moyo's notes on operations that do not fit well; callers see these in the operations."""
    logging.getLogger("moyo").addFilter(
        lambda record: not str(record.msg).startswith(("Omitted", "Large displacement"))
    )


@contextmanager
def record_warnings() -> Iterator[list[str]]:
    """Collect the warnings of libraries instead of printing them, for the message of the present item.

    Yields
    ------
    messages
        Filled at the end, each once, without deprecation warnings.
    """
    messages: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield messages
        finally:
            kept = (w for w in caught if not issubclass(w.category, DeprecationWarning | FutureWarning))
            messages += dict.fromkeys(str(warning.message) for warning in kept)
