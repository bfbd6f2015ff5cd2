"""SecantusDB with its findAndModify one at a time, to be imported before a server is made, or run in its place.

SecantusDB 0.7.0b3 reads the document that findAndModify gives back before it locks it: of two clients that count up at
the same moment both get the same number, more often where writes are journaled (261 of 800 in a test). FireWorks takes
its firework ids so, and two workers then overwrite each other's fireworks. MongoDB does it as one step.
"""

from __future__ import annotations

import threading
from typing import Any

NAMES = ("findAndModify", "findandmodify")


def lock_find_and_modify() -> None:
    """Let one findAndModify of this process run at a time."""
    from secantus import commands

    table: dict[str, Any] = commands._HANDLERS
    if getattr(table[NAMES[0]], "is_locked", False):
        return
    lock, original = threading.Lock(), table[NAMES[0]]

    def find_and_modify(document: Any, context: Any) -> Any:
        with lock:
            return original(document, context)

    find_and_modify.is_locked = True  # type: ignore[attr-defined]
    for name in NAMES:
        table[name] = find_and_modify


if __name__ == "__main__":
    from secantus.cli import main

    lock_find_and_modify()
    raise SystemExit(main())
