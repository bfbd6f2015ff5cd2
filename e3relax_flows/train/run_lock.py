"""One process at a time in a run's folder."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from e3relax_flows.core.errors import ConfigError

LOCK_FILE = ".lock"


@contextmanager
def lock_run(folder: Path) -> Iterator[None]:
    """Lock a run's folder against other trainings; the operating system releases the lock when the process ends.

    Raises
    ------
    ConfigError
        When another process trains there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK_FILE).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                f"another process trains in {folder}; wait for it, stop it, or choose another `out`"
            ) from error
        yield
