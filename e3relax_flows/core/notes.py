"""Keep off stderr what libraries say of results that show it themselves."""

from __future__ import annotations

import functools
import logging


@functools.cache
def drop_moyo_notes() -> None:
    """Drop moyo's notes on operations that do not fit well, which callers see from the operations."""
    logging.getLogger("moyo").addFilter(
        lambda record: not str(record.msg).startswith(("Omitted", "Large displacement"))
    )
