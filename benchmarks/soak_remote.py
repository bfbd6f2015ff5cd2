"""The soak test's jobflow-remote: a project in a folder, its runner, and jobs in processes, to be killed."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any

import psutil
from jobflow_remote import ConfigManager
from soak_parts import Place

PROJECT = "soak"
RUNNER_SHARE = 0.3  # of the kills
OPEN = ["READY", "CHECKED_OUT", "UPLOADED", "SUBMITTED", "RUNNING", "RUN_FINISHED", "DOWNLOADED"]


class RemotePlace(Place):
    """A project whose only worker is a shell of this machine; a random kill is one of a job, or of the runner."""

    name = "remote"
    recovery = "jf admin unlock, screen resume"

    def list_files(self) -> dict[str, Any]:
        """As `Place.list_files`."""
        worker = {"type": "local", "scheduler_type": "shell", "work_dir": str(self.folder / "jobs")}
        limits = {"max_jobs": self.n_workers, "timeout_execute": 120}
        queue = {"type": "MongoStore", "database": PROJECT, "collection_name": "jobs", **self.describe_server()}
        return {
            f"projects/{PROJECT}.yaml": {
                "name": PROJECT,
                "workers": {"here": {**worker, **limits}},
                "queue": {"store": queue},
                "jobstore": self.describe_job_store(),
                "runner": {"delay_checkout": 1, "delay_check_run_status": 1, "delay_advance_status": 0.5},
            }
        }

    def list_variables(self) -> dict[str, str]:
        """As `Place.list_variables`."""
        return {
            "JFREMOTE_PROJECTS_FOLDER": str(self.folder / "projects"),
            "JFREMOTE_PROJECT": PROJECT,
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),  # jf
            "PYTHONWARNINGS": "ignore",
        }

    def set_up(self) -> None:
        """As `Place.set_up`."""
        self.type("admin", "reset", "-y")

    def type(self, *arguments: str) -> None:
        """Type a command of jobflow-remote."""
        done = subprocess.run(["jf", *arguments], cwd=self.folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"jf {' '.join(arguments)}: {done.stdout}{done.stderr}")

    def start_workers(self) -> None:
        """As `Place.start_workers`: the runner, which starts the jobs."""
        if not self.list_runners():
            self.type("runner", "start")

    def list_runners(self) -> list[psutil.Process]:
        """The processes of the runner, the one that starts the others first."""
        found = self._find(str(self.folder / "projects"), "supervisord")
        return [*found, *(child for process in found for child in process.children(recursive=True))]

    def list_jobs(self) -> list[psutil.Process]:
        """Processes in which jobs run."""
        return self._find(str(self.folder / "jobs"), "execution")

    def _find(self, *words: str) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter(["cmdline"]):
            line = " ".join(process.info["cmdline"] or ())
            if all(word in line for word in words):
                found.append(process)
        return found

    def kill_one(self, draw: random.Random) -> None:
        """As `Place.kill_one`: the runner, all of its processes, or one job."""
        jobs = self.list_jobs()
        _kill([draw.choice(jobs)] if jobs and draw.random() > RUNNER_SHARE else self.list_runners())

    def kill_all(self) -> int:
        """As `Place.kill_all`."""
        return _kill([*self.list_runners(), *self.list_jobs()])

    def recover(self, screen_id: str) -> list[str]:
        """As `Place.recover`."""
        for what in (["unlock", "-y"], ["unlock-flow", "-y"], ["unlock-runner"]):
            self.type("admin", *what)
        return self.run("screen", "resume", screen_id).splitlines()

    def has_work(self) -> bool:
        """As `Place.has_work`."""
        with self._open_controller() as controller:
            return controller.jobs.find_one({"state": {"$in": OPEN}}, {"uuid": 1}) is not None

    @contextmanager
    def _open_controller(self) -> Iterator[Any]:
        with closing(ConfigManager().get_project(PROJECT).get_job_controller()) as controller:
            yield controller

    def open_jobs(self) -> AbstractContextManager[Any]:
        """As `Place.open_jobs`."""
        return ConfigManager().get_project(PROJECT).get_jobstore()


def _kill(processes: list[psutil.Process]) -> int:
    for process in processes:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(processes, timeout=10)
    return len(processes)
