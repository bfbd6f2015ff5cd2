"""On a real SLURM: a screen through `qlaunch`, and by arrays of workers that end in it; a training that is stopped."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import pymongo
import pytest
import yaml
from fault_engine import FOLDER, HOLD, count_relaxations
from pymatgen.core import Lattice, Structure
from slurm import Slurm, slurm  # noqa: F401
from test_cluster_tutorial import ENGINE, Terminal, read_commands, replace_in, terminal, wait_for, write_screen  # noqa: F401

from e3relax_flows.testing import EMT_LATTICES

ROOT = Path(__file__).resolve().parents[2]
ELEMENTS = ("Cu", "Ag")
SMALLER = {
    "ntasks_per_node: 32": "ntasks_per_node: 1",
    "cpus_per_task: 8": "cpus_per_task: 1",
    "OMP_NUM_THREADS=8": "OMP_NUM_THREADS=1",
    "module load vasp": "true",
}
OPEN = ["READY", "WAITING", "RUNNING", "RESERVED"]
TRAINING = {
    "out": "run",
    "network": {"n_layers": 1, "n_scalars": 4, "n_hidden": 4, "n_vectors": 2, "n_densities": 2, "l_max": 1},
    "data": {"train": ["pairs.jsonl"], "val": ["pairs.jsonl"], "max_atoms": 4},
    "schedule": {"max_steps": 6},
    "stop_minutes": 1,  # before the end of the allocation
    "threads": 1,
    "device": "cpu",
}
SCRIPT = """\
#!/bin/bash
#SBATCH --ntasks=2
export PYTHONPATH={root} OMP_NUM_THREADS=1
srun --ntasks=2 {python} -W ignore -m e3relax_flows.train train.yaml --no-export
echo $? > code
"""


def write_metals(folder: Path) -> None:
    """Two candidates."""
    folder.mkdir()
    for element in ELEMENTS:
        half = 1.04 * EMT_LATTICES[element] / 2
        cell = Lattice([[0, half, half], [half, 0, half], [half, half, 0]])
        Structure(cell, [element], [[0, 0, 0]]).to(str(folder / f"{element}.vasp"), fmt="poscar")


def submit_metals(terminal: Terminal, slurm: Slurm, engine: dict[str, Any]) -> None:  # noqa: F811
    """What the page says before workers are started, on the login node of a cluster."""
    terminal.variables |= slurm.environment
    replace_in(terminal.clone / "configs" / "fireworks", SMALLER)
    write_metals(terminal.clone / "candidates")
    write_screen(terminal.clone, engine)
    terminal.type("\n".join(["set -e", *read_commands("mkdir -p ~/.fireworks")]))
    activate = terminal.home / "venv" / "bin" / "activate"  # the environment of a login, not of this process
    activate.parent.mkdir(parents=True)
    names = {"HOME", "PATH", "PYTHONPATH", "FW_CONFIG_FILE", "SLURM_CONF", FOLDER} & terminal.variables.keys()
    activate.write_text("".join(f"export {name}={terminal.variables[name]}\n" for name in sorted(names)))
    terminal.type(read_commands("lpad reset")[0])
    terminal.type(read_commands("e3relax screen screen.yaml --submit fireworks --dry-run")[1])


def test_a_screen_runs_in_allocations_that_qlaunch_asks_for(
    terminal: Terminal,  # noqa: F811
    slurm: Slurm,  # noqa: F811
    server: tuple[str, int],
) -> None:
    """The CPU kind in one partition and the GPU kind in another; an allocation ends when no job is ready."""
    submit_metals(terminal, slurm, ENGINE)
    commands = [line for line in read_commands("rlaunch -w ~/.fireworks") if line.startswith("qlaunch")]
    assert ["-m" in command for command in commands] == [True, True]
    for number, command in enumerate(commands):
        launches = terminal.home / f"queue{number}"
        launches.mkdir()
        command = command.replace("qlaunch ", f"qlaunch --launch_dir {launches} ")
        terminal.start(command.replace(" -m 20 ", " -m 1 ").replace(" -m 2 ", " -m 1 "), f"qlaunch{number}.log")
    with pymongo.MongoClient(*server) as client:
        (name,) = [name for name in client.list_database_names() if name.endswith("_pad")]
        pad = client[name]
        wait_for(lambda: pad.fireworks.count_documents({"state": "COMPLETED", "name": "e3r candidate"}) == 2, "relaxed")
        wait_for(lambda: not pad.fireworks.find_one({"state": {"$in": OPEN}}), "the launchpad is idle")
        assert pad.fireworks.count_documents({"state": "FIZZLED"}) == 0
        kinds = {(launch["fworker"]["name"], "queue0" in launch["launch_dir"]) for launch in pad.launches.find()}
        assert kinds == {("gpu", True), ("cpu", False)}
    wait_for(lambda: slurm.run("squeue", "-h") == "", "no allocation idles")
    assert "2 successful" in terminal.type("e3relax screen status oxides")


def test_a_screen_outlives_arrays_of_workers(
    terminal: Terminal,  # noqa: F811
    slurm: Slurm,  # noqa: F811
    server: tuple[str, int],
) -> None:
    """Their walltime ends all of them, two in a relaxation; the commands of the page lead to the last outcome."""
    terminal.variables[FOLDER] = str(terminal.home)
    terminal.variables["PYTHONPATH"] += f":{ROOT / 'tests'}"
    (terminal.home / HOLD).touch()
    submit_metals(terminal, slurm, ENGINE | {"maker": "fault_engine:WatchedRelaxMaker"})
    arrays = [
        command.replace("--array=1-2 ", "--array=1 ").replace("--array=1-20", "--array=1-2").replace("=32", "=1")
        for command in read_commands("sbatch")
    ]
    for command in arrays:
        terminal.type(command)
    with pymongo.MongoClient(*server) as client:
        (name,) = [name for name in client.list_database_names() if name.endswith("_pad")]
        pad = client[name]
        wait_for(lambda: sum(count_relaxations(terminal.home, "begun").values()) == 2, "both are in a relaxation")
        for number in slurm.run("squeue", "-h", "-t", "RUNNING", "-o", "%A").split():
            slurm.run("scontrol", "update", f"JobId={number}", "EndTime=now")
        wait_for(lambda: slurm.run("squeue", "-h") == "", "all allocations are over")
        assert slurm.run("squeue", "-h", "-t", "TIMEOUT", "-o", "%P").split() == ["gpu", "standard", "standard"]
        (terminal.home / HOLD).unlink()
        assert "2 jobs were lost: they run again" in terminal.type_block("e3relax screen recover")
        for command in arrays:
            terminal.type(command)
        wait_for(lambda: not pad.fireworks.find_one({"state": {"$in": OPEN}}), "the launchpad is idle")
        assert pad.fireworks.count_documents({"state": "FIZZLED"}) == 0
    slurm.run("scancel", "--user=root")  # workers that wait for jobs
    assert "2 successful" in terminal.type("e3relax screen status oxides")
    counts = [sorted(count_relaxations(terminal.home, station).values()) for station in ("begun", "ended")]
    assert counts == [[2, 2], [1, 1]]


@pytest.fixture
def pairs(tmp_path: Path) -> None:
    rows = [
        {
            "id": f"p{index}", "source": "made", "functional": "PBE", "numbers": [11, 17],
            "initial": {"lattice": [[0, a, a], [a, 0, a], [a, a, 0]], "frac": [[0, 0, 0], [0.5, 0.5, 0.5]]},
            "relaxed": {"lattice": [[0, 2.8, 2.8], [2.8, 0, 2.8], [2.8, 2.8, 0]], "frac": [[0, 0, 0], [0.5, 0.5, 0.5]]},
        }
        for index, a in enumerate([2.6, 2.7, 2.9, 3.0])
    ]  # fmt: skip
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.usefixtures("pairs")
def test_two_ranks_are_stopped_by_their_walltime_and_go_on_in_the_next_allocation(
    slurm: Slurm,  # noqa: F811
    tmp_path: Path,
) -> None:
    if (os.cpu_count() or 1) < 2:
        pytest.skip("two ranks need two cores")
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(TRAINING))
    (tmp_path / "train.sh").write_text(SCRIPT.format(root=ROOT, python=sys.executable))
    ends = [run_allocation(slurm, tmp_path, minutes) for minutes in (1, 20)]
    assert [end["code"] for end in ends] == [75, 0], ends
    assert "on 2 ranks" in str(ends[0]["output"])
    assert "walltime" in str(ends[0]["output"])


def run_allocation(slurm: Slurm, folder: Path, minutes: int) -> dict[str, object]:  # noqa: F811
    """Exit code and output of the training in an allocation of so many minutes."""
    code = folder / "code"
    code.unlink(missing_ok=True)
    script = ("--chdir", str(folder), "--output", str(folder / f"out{minutes}"), str(folder / "train.sh"))
    slurm.run("sbatch", "--time", str(minutes), *script)
    deadline = time.monotonic() + 300
    while not code.exists() or not code.read_text():
        assert time.monotonic() < deadline, slurm.run("squeue")
        time.sleep(0.5)
    return {"code": int(code.read_text()), "output": (folder / f"out{minutes}").read_text()}
