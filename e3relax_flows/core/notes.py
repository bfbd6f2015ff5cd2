"""Keep off stderr what libraries say of results that show it themselves, or collect it for those that should."""

from __future__ import annotations

import functools
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@functools.cache
def drop_moyo_notes() -> None:
    """Drop moyo's notes on operations that do not fit well, which callers see from the operations."""
    logging.getLogger("moyo").addFilter(
        lambda record: not str(record.msg).startswith(("Omitted", "Large displacement"))
    )


@contextmanager
def record_warnings() -> Iterator[list[str]]:
    """Collect what libraries warn of in place of printing it, for the message of the item at hand.

    Yields
    ------
    messages
        Filled at the end, each once; notes on what libraries will remove are left out.
    """
    messages: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield messages
        finally:
            kept = (w for w in caught if not issubclass(w.category, DeprecationWarning | FutureWarning))
            messages += dict.fromkeys(str(warning.message) for warning in kept)
