"""A launchpad of a test, with workers in processes of their own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forked import Forked, rlaunch

TIMEOUT_S = 240


@dataclass
class Campaign:
    """A launchpad and what its workers need."""

    folder: Path
    pad_file: Path
    environment: dict[str, str]

    def open_pad(self) -> Any:
        from fireworks import LaunchPad

        return LaunchPad.from_file(str(self.pad_file))

    def start(self, *arguments: str) -> Forked:
        """Start `rlaunch` in a process of its own."""
        return Forked(rlaunch, "-l", str(self.pad_file), *arguments, folder=self.folder, environment=self.environment)

    def drain(self, n_workers: int = 1) -> None:
        """Run what is there to be run, by some workers at once."""
        workers = [self.start("rapidfire", "--nlaunches", "0") for _ in range(n_workers)]
        for worker in workers:
            text, _ = worker.communicate(timeout=TIMEOUT_S)
            assert worker.returncode == 0, text

    def drain_some(self, n_launches: int) -> None:
        """Run so many jobs by one worker."""
        worker = self.start("rapidfire", "--nlaunches", str(n_launches))
        text, _ = worker.communicate(timeout=TIMEOUT_S)
        assert worker.returncode == 0, text
