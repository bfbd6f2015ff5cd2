"""Processes of tests, forked from one that has imported what they need; each may be killed as any other."""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

MODULES = [
    "pytest",
    "atomate2.ase.jobs",
    "fireworks.scripts.rlaunch_run",
    "e3relax_flows.predict.predictor",
    "e3relax_flows.screening.launchpad",
    "e3relax_flows.campaigns.maker",
    "e3relax_flows.places.submission",
    "e3relax_flows.testing",
    "e3relax_flows.train.loop",
]
# the process that imports them is started with the first that is forked from it
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(MODULES)


class Forked:
    """A process that calls a function; what of `subprocess.Popen` the tests use.

    Parameters
    ----------
    function
        Of a module, called in the folder with the environment; its SystemExit is the process's.
    """

    def __init__(
        self, function: Callable[..., Any], *arguments: Any, folder: Path, environment: Mapping[str, str]
    ) -> None:
        descriptor, name = tempfile.mkstemp(".log", dir=folder)
        os.close(descriptor)
        self._log = Path(name)
        inside = (function, arguments, str(folder), dict(environment), name)
        self._process = CONTEXT.Process(target=_call, args=inside, daemon=True)
        self._process.start()

    @property
    def pid(self) -> int:
        return int(self._process.pid or 0)

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    poll = returncode.fget

    def kill(self) -> None:
        self._process.kill()

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for the end; gives what was printed, all of it as the first, and as the second."""
        self._process.join(timeout)
        text = self._log.read_text()
        if self._process.exitcode is None:
            self.kill()
            raise TimeoutError(f"process {self.pid} ran for more than {timeout} s: {text}")
        return text, text


def _call(
    function: Callable[..., Any], arguments: tuple[Any, ...], folder: str, environment: dict[str, str], log: str
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(descriptor, stream.fileno())
    warnings.simplefilter("ignore")
    _read_settings()
    function(*arguments)
    sys.stdout.flush()


def _read_settings() -> None:
    """Read jobflow's settings, which it does as it is imported, in the environment of this process."""
    from jobflow import SETTINGS
    from jobflow.settings import JobflowSettings

    vars(SETTINGS).update(vars(JobflowSettings()))


def rlaunch(*arguments: str) -> None:
    """FireWorks' command."""
    from fireworks.scripts.rlaunch_run import rlaunch as run

    sys.argv = ["rlaunch", *arguments]
    run()


def train(*arguments: str) -> None:
    """`python -m e3relax_flows.train`."""
    from e3relax_flows.train.__main__ import main

    sys.argv = ["train", *arguments]
    raise SystemExit(main())
