"""The tutorial of the cluster, typed from an empty home: its own commands, a real server, real workers, real faults."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pymongo
import pytest
import yaml
from pymatgen.core import Lattice, Structure

from e3relax_flows.testing import EMT_LATTICES

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "tutorials" / "cluster.md").read_text(encoding="utf-8")
ENGINE: dict[str, Any] = {
    "maker": "atomate2.ase.jobs:EmtRelaxMaker",
    "settings": {"relax_kwargs": {"fmax": 0.005}, "steps": 200, "relax_cell": True},
}
DEADLINE_S = 600
RETRAINING = {
    "name": "metals",
    "holdout": "mine",
    "dataset": {"filter": {"dft_only": False}, "val_fraction": 0.3},
    "replay": {"fraction": 0},
    "training": {
        "schedule": {"max_steps": 2, "learning_rate": 0.0003, "warmup_steps": 1}, "val_every": 2, "device": "cpu",
    },
}  # fmt: skip


def read_commands(start: str) -> list[str]:
    """The commands of the first block of the page that has a line which begins so."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    block = next(block for block in blocks if any(line.startswith(start) for line in block.splitlines()))
    return [line.split("    #")[0].strip() for line in block.splitlines() if line]


@dataclass
class Terminal:
    """A shell in a clone of the repository, whose home is empty at first."""

    home: Path
    clone: Path
    variables: dict[str, str]
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def type(self, command: str, code: int = 0) -> str:
        """Type a command; what it printed."""
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self.clone,
            env=self.variables,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
        )
        assert done.returncode == code, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    def type_block(self, start: str) -> str:
        """Type the block of the page that has a command which begins so."""
        return "".join(map(self.type, read_commands(start)))

    def start(self, command: str, log: str) -> subprocess.Popen[bytes]:
        """Leave a command running in a process group of its own."""
        output = (self.home / log).open("ab")
        worker = subprocess.Popen(
            ["bash", "-c", f"exec {command}"], cwd=self.clone, env=self.variables, stdout=output, stderr=output,
            start_new_session=True,
        )  # fmt: skip
        output.close()
        self.workers.append(worker)
        return worker

    def kill_workers(self) -> None:
        """As a node that fails does."""
        for worker in self.workers:
            if worker.poll() is None:
                os.killpg(worker.pid, signal.SIGKILL)
            worker.wait()
        self.workers.clear()


def replace_in(folder: Path, words: dict[str, str]) -> None:
    """What the page asks for: replace host, user and paths in the copied files."""
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        text = path.read_text(encoding="utf-8")
        for old, new in words.items():
            text = text.replace(old, new)
        path.write_text(text, encoding="utf-8")


@pytest.fixture
def terminal(server: tuple[str, int], tmp_path: Path) -> Iterator[Terminal]:
    home, clone, commands = tmp_path / "home", tmp_path / "clone", tmp_path / "bin"
    for folder in (home, clone, commands):
        folder.mkdir()
    shutil.copytree(ROOT / "configs", clone / "configs")
    database = f"e3r_tutorial_{os.getpid()}"
    words = {"/home/me": str(home), "db.example.org": server[0], "27017": str(server[1])}
    replace_in(
        clone / "configs", {**words, "database: e3relax": f"database: {database}", "SLEEP_SECS: 20": "SLEEP_SECS: 1"}
    )
    pad = clone / "configs" / "fireworks" / "my_launchpad.yaml"
    pad.write_text(pad.read_text().replace("name: fireworks", f"name: {database}_pad"))
    for name, module in (("e3relax", "e3relax_flows.cli.app:main"), ("lpad", "fireworks.scripts.lpad_run:lpad"),
                         ("rlaunch", "fireworks.scripts.rlaunch_run:rlaunch"),
                         ("qlaunch", "fireworks.scripts.qlaunch_run:qlaunch")):  # fmt: skip
        place, function = module.split(":")
        script = commands / name
        script.write_text(f"#!{sys.executable} -Wignore\nfrom {place} import {function}\n{function}()\n")
        script.chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("E3RELAX_", "JOBFLOW_", "FW_"))}
    changed = {
        "HOME": str(home), "PATH": f"{commands}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT), "FW_CONFIG_FILE": str(home / ".fireworks" / "FW_config.yaml"), "COLUMNS": "200",
    }  # fmt: skip
    made = Terminal(home, clone, {**kept, **changed})
    try:
        yield made
    finally:
        made.kill_workers()
        with pymongo.MongoClient(*server) as client:
            for name in (database, f"{database}_pad"):
                client.drop_database(name)


def write_candidates(folder: Path) -> None:
    """Metals that EMT knows, one of them twice, and one whose atoms lie upon one another."""
    folder.mkdir()
    for element, lattice in EMT_LATTICES.items():
        half = 1.04 * lattice / 2
        cell = Lattice([[0, half, half], [half, 0, half], [half, half, 0]])
        Structure(cell, [element], [[0, 0, 0]]).to(str(folder / f"{element}.vasp"), fmt="poscar")
    bad = Structure(Lattice.cubic(3.6), ["Cu", "Cu"], [[0, 0, 0], [0, 0, 1e-4]])
    bad.to(str(folder / "bad.vasp"), fmt="poscar")


def write_screen(folder: Path, engine: dict[str, Any] = ENGINE, chunk_size: int = 4) -> None:
    """The page's file, with an engine that this machine has."""
    (text,) = re.findall(r"<!-- file: screen.yaml -->\n```yaml\n(.*?)```", PAGE, re.DOTALL)
    content = {**yaml.safe_load(text), "engine": engine, "chunk_size": chunk_size, "one_launch": True}
    content["limits"] |= {"max_in_flight": 3}
    (folder / "screen.yaml").write_text(yaml.safe_dump(content))


def wait_for(check: object, what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not check():  # type: ignore[operator]
        assert time.monotonic() < deadline, what
        time.sleep(0.5)


def drop_log(shown: str) -> str:
    """What a command printed without the lines of its log."""
    return "\n".join(line for line in shown.splitlines() if " INFO e3relax_flows." not in line)


def test_fireworks_by_the_letter(terminal: Terminal, server: tuple[str, int]) -> None:
    write_candidates(terminal.clone / "candidates")
    write_screen(terminal.clone)
    terminal.type("\n".join(["set -e", *read_commands("mkdir -p ~/.fireworks")]))
    settings = terminal.home / ".e3relax.yaml"
    right = settings.read_text()
    settings.write_text(right.replace("category: gpu", "category: gpus"))  # wrong at first
    reset, doctor = read_commands("lpad reset")
    terminal.type(reset)
    assert "required by role predict; no worker's file offers it" in terminal.type(doctor, code=1)
    settings.write_text(right)
    terminal.type(doctor)

    terminal.type(read_commands("e3relax screen screen.yaml --submit fireworks --dry-run")[0])
    submit = read_commands("e3relax screen screen.yaml --submit fireworks --dry-run")[1]
    first, again = (drop_log(terminal.type(submit)) for _ in range(2))
    assert "2 prediction jobs are submitted" in first
    assert "is on this machine" in first
    assert "is on this machine" not in again
    status = read_commands("e3relax screen status")[1]
    assert re.search(r"jobs ready: 2 gpu; 0 running.*no worker has ever run here", terminal.type(status), re.DOTALL)

    by_hand = [line for line in read_commands("rlaunch -w ~/.fireworks") if line.startswith("rlaunch")]
    assert len(by_hand) == 2
    with pymongo.MongoClient(*server) as client:
        (name,) = [name for name in client.list_database_names() if name.endswith("_pad")]
        fireworks = client[name].fireworks
        terminal.start(by_hand[0], "gpu.log")
        wait_for(lambda: fireworks.find_one({"state": "RUNNING", "name": "e3r predict"}), "a prediction runs")
        terminal.kill_workers()
        assert "1 jobs were lost: they run again" in terminal.type_block("e3relax screen recover")
        for number, command in enumerate(by_hand):
            terminal.start(command, f"worker{number}.log")

        def is_over() -> bool:
            return "is finished" in terminal.type(submit) or ": finished" in terminal.type(status)

        wait_for(
            lambda: not fireworks.find_one({"state": {"$in": ["READY", "WAITING", "RUNNING", "RESERVED"]}}), "idle"
        )
        wait_for(is_over, "the screen is finished")
        assert all(worker.poll() is None for worker in terminal.workers)  # and go on waiting for jobs
        assert fireworks.count_documents({"state": "FIZZLED"}) == 0
    shown = terminal.type(status)
    assert "7 successful" in shown
    assert "1 error" in shown
    terminal.type_block("e3relax table oxides")
    assert len((terminal.clone / "oxides.csv").read_text().splitlines()) == 9
    assert "oxides" in (terminal.clone / "oxides.html").read_text()
    assert "7 pairs, 0 superseded ones kept" in terminal.type("e3relax data show")

    # a retraining, at the same workers
    terminal.type("e3relax data freeze mine --fraction 0.3 --potentials --min-pairs 2")
    (terminal.clone / "retrain.yaml").write_text(yaml.safe_dump(RETRAINING))
    assert "7 jobs in 1 flows submitted" in terminal.type("e3relax retrain retrain.yaml --submit fireworks")
    with pymongo.MongoClient(*server) as client:
        retraining = client[name].workflows
        wait_for(
            lambda: retraining.find_one({"name": "e3r retrain", "state": {"$in": ["COMPLETED", "FIZZLED"]}}), "trained"
        )
        assert retraining.find_one({"name": "e3r retrain"})["state"] == "COMPLETED"


PLAIN = """
from fireworks import LaunchPad
from jobflow import Flow
from jobflow.managers.fireworks import flow_to_workflow
from pymatgen.core import Lattice, Structure

from e3relax_flows import PrerelaxMaker
from e3relax_flows.testing import EmtEngine, EMT_LATTICES

metal = Structure.from_spacegroup("Fm-3m", Lattice.cubic(1.03 * EMT_LATTICES["Cu"]), ["Cu"], [[0, 0, 0]])
predict = PrerelaxMaker(device="cpu").make(metal)
relax = EmtEngine().make(predict.output.structure)
LaunchPad.auto_load().add_wf(flow_to_workflow(Flow([predict, relax])))
"""


def test_workflows_of_plain_jobflow_run_at_the_documented_workers(terminal: Terminal, server: tuple[str, int]) -> None:
    """`flow_to_workflow` and `add_wf` give jobs no category; the worker of the page takes them all the same."""
    terminal.type("\n".join(["set -e", *read_commands("mkdir -p ~/.fireworks")]))
    terminal.type(read_commands("lpad reset")[0])
    (terminal.clone / "plain.py").write_text(PLAIN)
    terminal.type(f"{sys.executable} -Wignore plain.py")
    (cpu,) = [
        line for line in read_commands("rlaunch -w ~/.fireworks") if "rlaunch -w ~/.fireworks/fworker_cpu" in line
    ][:1]
    terminal.start(cpu, "cpu.log")
    with pymongo.MongoClient(*server) as client:
        (name,) = [name for name in client.list_database_names() if name.endswith("_pad")]
        workflows = client[name].workflows
        wait_for(lambda: workflows.find_one({"state": {"$in": ["COMPLETED", "FIZZLED"]}}), "it has ended")
        assert workflows.find_one()["state"] == "COMPLETED", (terminal.home / "cpu.log").read_text()
