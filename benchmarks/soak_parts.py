"""What the soak test is made of: candidates, an engine that writes down what it does, a server, FireWorks to kill."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, field
from itertools import combinations, permutations
from pathlib import Path
from typing import Any, ClassVar

import yaml
from atomate2.ase.jobs import EmtRelaxMaker
from jobflow import CURRENT_JOB
from jobflow import Maker as JobflowMaker
from pymatgen.core import Lattice, Structure

from e3relax_flows import ReadItem, load_settings, open_job_store
from e3relax_flows.testing import EMT_LATTICES, EmtEngine

LOG_VARIABLE = "E3RELAX_SOAK_LOG"
# SecantusDB sorts its table of retryable writes at each of them; what it cannot write again, `recover` does
DURABLE = {"mongoclient_kwargs": {"w": "majority", "journal": True, "retryWrites": False}}
STATIONS = ("begun", "ended")
BAD_EVERY, UNKNOWN_EVERY = 250, 100  # candidates without a structure to predict; with an element the engine has not
START_S = 60.0


def note(station: str) -> None:
    """Append one line on the relaxation of the current job; lines of processes do not mix."""
    job: Any = CURRENT_JOB.job
    words = (station, job.metadata["prediction_id"], job.metadata["start_kind"], job.uuid, os.getpid(), time.time())
    line = " ".join(map(str, words)) + "\n"
    descriptor = os.open(os.environ[LOG_VARIABLE], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


@dataclass
class NotedRelaxMaker(EmtRelaxMaker):
    """EMT's relaxation, which writes down when it begins and when it has ended."""

    name: str = "EMT relax"

    def run_ase(self, mol_or_struct: Any, prev_dir: str | Path | None = None) -> Any:
        """Relax between two notes."""
        note("begun")
        result = super().run_ase(mol_or_struct, prev_dir)
        note("ended")
        return result


@dataclass
class NotedEngine(EmtEngine):
    """Effective medium theory with notes."""

    maker: JobflowMaker = field(
        default_factory=lambda: NotedRelaxMaker(relax_kwargs={"fmax": 0.2}, steps=30, relax_cell=True)
    )


def count_relaxations(log: Path) -> dict[str, Counter[tuple[str, str]]]:
    """How often each relaxation, by prediction and start, was at each station."""
    counts: dict[str, Counter[tuple[str, str]]] = {station: Counter() for station in STATIONS}
    for line in log.read_text().splitlines() if log.exists() else []:
        station, prediction_id, kind, *_ = line.split()
        counts[station][prediction_id, kind] += 1
    return counts


def make_candidates(n: int) -> Iterator[ReadItem]:
    """Strained metals and alloys in four cells, no two alike; some of them bad."""
    kinds = [*(("fcc", (a,)) for a in EMT_LATTICES)]
    kinds += [(cell, pair) for cell in ("L1_0", "B2") for pair in combinations(EMT_LATTICES, 2)]
    kinds += [("L1_2", pair) for pair in permutations(EMT_LATTICES, 2)]
    n_strains = -(-n // len(kinds))
    for number in range(n):
        cell, elements = kinds[number % len(kinds)]
        strain = 0.96 + 0.1 * (number // len(kinds)) / n_strains
        name = f"c{number:05d}-{cell}-{''.join(elements)}"
        if number % BAD_EVERY == BAD_EVERY - 1:
            yield ReadItem(name, None, "this file is not a structure")
            continue
        if number % UNKNOWN_EVERY == UNKNOWN_EVERY - 1:
            elements = ("W", *elements[1:])
        yield ReadItem(name, make_cell(cell, elements, strain), None)


def make_cell(cell: str, elements: tuple[str, ...], strain: float) -> Structure:
    """A primitive cell, a bit out of shape."""
    lengths = [EMT_LATTICES.get(element, 3.9) for element in elements]
    a = strain * sum(lengths) / len(lengths)
    skew = 1 + 0.02 * (strain - 1)
    corners = [[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
    if cell == "fcc":
        return Structure(Lattice([[0, a / 2, a / 2], [a / 2, 0, a / 2], [a / 2, a / 2, 0]]), elements, corners[:1])
    first, second = elements
    if cell == "L1_0":
        return Structure(Lattice.tetragonal(a / 2**0.5, a * skew), [first, second], [[0, 0, 0], [0.5, 0.5, 0.5]])
    if cell == "B2":
        return Structure(Lattice.cubic(a / 2 ** (1 / 3)), [first, second], [[0, 0, 0], [0.5, 0.5, 0.5]])
    return Structure(Lattice.tetragonal(a, a * skew), [first, second, second, second], corners)


def find_free_port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Place(ABC):
    """A folder with a server, the configuration of a manager, and its processes."""

    folder: Path
    n_workers: int = 2
    port: int = field(default_factory=find_free_port)
    server: subprocess.Popen[bytes] | None = None
    name: ClassVar[str]
    recovery: ClassVar[str]  # what is typed after kills

    def prepare(self) -> None:
        """Write the files of the manager, and point the environment at them."""
        self.folder.mkdir(parents=True, exist_ok=True)
        here = str(Path(__file__).resolve().parent)
        for name, content in self.list_files().items():
            path = self.folder / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(yaml.safe_dump(content))
        os.environ |= {
            "JOBFLOW_CONFIG_FILE": str(self.folder / "jobflow.yaml"),
            "E3RELAX_CONFIG_FILE": str(self.folder / "none.yaml"),
            "E3RELAX_DATA_DIR": str(self.folder / "data"),
            LOG_VARIABLE: str(self.folder / "relaxations.log"),
            "PYTHONPATH": os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")])),
            "OMP_NUM_THREADS": "1",
            **self.list_variables(),
        }

    def describe_server(self) -> dict[str, Any]:
        """As the files of stores and managers name it."""
        return {"host": "127.0.0.1", "port": self.port, **DURABLE}

    def describe_job_store(self) -> dict[str, Any]:
        """Where the outputs of jobs go."""
        documents = {"type": "MongoStore", "database": "soak", "collection_name": "outputs", **self.describe_server()}
        blobs = {**documents, "collection_name": "blobs", "key": "blob_uuid"}
        return {"docs_store": documents, "additional_stores": {"data": blobs}}

    @abstractmethod
    def list_files(self) -> dict[str, Any]:
        """Contents of the manager's files by their paths."""

    @abstractmethod
    def list_variables(self) -> dict[str, str]:
        """Variables of the environment that name these files."""

    @abstractmethod
    def set_up(self) -> None:
        """Make the manager's database."""

    @abstractmethod
    def start_workers(self) -> None:
        """Start what is not running, and what would run."""

    @abstractmethod
    def kill_one(self, draw: random.Random) -> None:
        """Kill something at random."""

    @abstractmethod
    def kill_all(self) -> int:
        """Kill everything; how many processes that were."""

    @abstractmethod
    def recover(self, screen_id: str) -> list[str]:
        """Type what a user types when all is stopped; the lines of what was done."""

    @abstractmethod
    def has_work(self) -> bool:
        """Whether a job is ready or at a worker."""

    @abstractmethod
    def open_jobs(self) -> AbstractContextManager[Any]:
        """The job store."""

    def start_server(self) -> None:
        """Start the server on its files, and wait until it answers."""
        program = Path(__file__).resolve().parents[1] / "tests" / "secantus_locked.py"
        options = ("--oplog-max-entries", "500", "--oplog-retention-seconds", "5", "--log-level", "WARNING")
        command = [
            sys.executable,
            str(program),
            "--host",
            "127.0.0.1",
            "--port",
            str(self.port),
            "--storage-path",
            "server",
            *options,
        ]
        with (self.folder / "server.log").open("ab") as log:
            self.server = subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=log)
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                time.sleep(0.2)
        raise RuntimeError(f"the server does not answer; see {self.folder / 'server.log'}")

    def run(self, *arguments: str) -> str:
        """Type an `e3relax` command; what it prints. Its errors end the soak."""
        command = [sys.executable, "-W", "ignore", "-m", "e3relax_flows.cli.app", *arguments]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"e3relax {' '.join(arguments)}: {done.stdout}{done.stderr}")
        return done.stdout

    def read_status(self, screen_id: str) -> dict[str, Any]:
        """What `e3relax screen status ID --json` says."""
        return dict(json.loads(self.run("screen", "status", screen_id, "--json")))

    def stop(self) -> None:
        """End workers and server."""
        self.kill_all()
        if self.server is not None:
            self.server.terminate()
            self.server.wait()


@dataclass
class FireWorksPlace(Place):
    """A launchpad, and `rlaunch rapidfire`."""

    name = "fireworks"
    recovery = "screen recover --workers-stopped, screen resume"
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)
    n_started: int = 0

    def list_files(self) -> dict[str, Any]:
        """As `Place.list_files`."""
        return {
            "my_launchpad.yaml": {"name": "soak", "uri_mode": False, "authsource": None, **self.describe_server()},
            "my_fworker.yaml": {"name": "soak", "category": "", "query": "{}"},
            "FW_config.yaml": {
                "CONFIG_FILE_DIR": str(self.folder), "LAUNCHPAD_LOC": str(self.folder / "my_launchpad.yaml"),
                "PING_TIME_SECS": 20, "RUN_EXPIRATION_SECS": 90, "RAPIDFIRE_SLEEP_SECS": 2,
            },
            "jobflow.yaml": {"JOB_STORE": self.describe_job_store()},
        }  # fmt: skip

    def list_variables(self) -> dict[str, str]:
        """As `Place.list_variables`."""
        return {"FW_CONFIG_FILE": str(self.folder / "FW_config.yaml")}

    @contextmanager
    def open_pad(self) -> Iterator[Any]:
        """The launchpad."""
        from fireworks import LaunchPad

        with closing((pad := LaunchPad.from_file(str(self.folder / "my_launchpad.yaml"))).connection):
            yield pad

    def set_up(self) -> None:
        """As `Place.set_up`."""
        with self.open_pad() as pad:
            pad.reset("", require_password=False)

    def start_workers(self) -> None:
        """As `Place.start_workers`: there are as many as are wanted."""
        self.workers = [worker for worker in self.workers if worker.poll() is None]
        while len(self.workers) < self.n_workers:
            self.n_started += 1
            folder = self.folder / "workers" / f"w{self.n_started}"
            folder.mkdir(parents=True)
            script = "from fireworks.scripts.rlaunch_run import rlaunch; rlaunch()"
            files = ("-l", "my_launchpad.yaml", "-w", "my_fworker.yaml")
            paths = [str(self.folder / name) if name.endswith("yaml") else name for name in files]
            command = [
                sys.executable,
                "-W",
                "ignore",
                "-c",
                script,
                *paths,
                "-s",
                "rapidfire",
                "--nlaunches",
                "infinite",
            ]
            with (folder / "log").open("ab") as log:
                self.workers.append(subprocess.Popen(command, cwd=folder, stdout=log, stderr=log))

    def kill_one(self, draw: random.Random) -> None:
        """End a worker at once, wherever it is."""
        worker = draw.choice(self.workers)
        worker.kill()
        worker.wait()
        self.workers.remove(worker)

    def kill_all(self) -> int:
        """As `Place.kill_all`."""
        n_workers = len(self.workers)
        while self.workers:
            self.kill_one(random.Random())
        return n_workers

    def recover(self, screen_id: str) -> list[str]:
        """As `Place.recover`."""
        lines = self.run("screen", "recover", "--workers-stopped").splitlines()
        self.run("screen", "resume", screen_id)
        return lines

    def has_work(self) -> bool:
        """As `Place.has_work`."""
        with self.open_pad() as pad:
            states = ["READY", "RUNNING", "RESERVED"]
            return pad.fireworks.find_one({"state": {"$in": states}}, {"fw_id": 1}) is not None

    def open_jobs(self) -> AbstractContextManager[Any]:
        """As `Place.open_jobs`."""
        return open_job_store(load_settings())
