"""The tutorial's part on jobflow-remote, typed from an empty home, with its real runner, in its own environment.

E3RELAX_TEST_REMOTE names the Python of an environment with jobflow-remote, which `.ci/run` makes; without it: skipped.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pymongo
import pytest
import yaml
from test_cluster_tutorial import (
    RETRAINING,
    ROOT,
    Terminal,
    read_commands,
    replace_in,
    wait_for,
    write_candidates,
    write_screen,
)

PYTHON = os.environ.get("E3RELAX_TEST_REMOTE", "")
# a worker that this machine has, in the place of those of the page
WORKER = {"type": "local", "scheduler_type": "shell", "max_jobs": 2, "timeout_execute": 120}
PATIENCE_S = 5.0
RUNNER = {"delay_checkout": 0.2, "delay_check_run_status": 0.2, "delay_advance_status": 0.2}


@pytest.fixture
def remote_terminal(server: tuple[str, int], tmp_path: Path) -> Iterator[Terminal]:
    if not shutil.which(PYTHON):
        pytest.skip("E3RELAX_TEST_REMOTE names no Python of an environment with jobflow-remote")
    home = Path(tempfile.mkdtemp(prefix="jf"))  # short, since the runner's socket is below it
    clone, commands = tmp_path / "clone", tmp_path / "bin"
    for folder in (clone, commands):
        folder.mkdir()
    shutil.copytree(ROOT / "configs", clone / "configs")
    database = f"e3r_remote_{os.getpid()}"
    words = {"/home/me": str(home), "db.example.org": server[0], "27017": str(server[1])}
    replace_in(clone / "configs", {**words, "database: e3relax": f"database: {database}"})
    for name, module in (("e3relax", "e3relax_flows.cli.app"), ("jf", "jobflow_remote.cli.jf")):
        function = "main" if name == "e3relax" else "app"
        script = commands / name
        script.write_text(f"#!{PYTHON} -Wignore\nfrom {module} import {function}\n{function}()\n")
        script.chmod(0o755)
    (commands / "python").symlink_to(PYTHON)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("E3RELAX_", "JOBFLOW_", "FW_"))}
    changed = {
        "HOME": str(home), "PATH": f"{commands}:{Path(PYTHON).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT), "COLUMNS": "200",
    }  # fmt: skip
    made = Terminal(home, clone, {**kept, **changed})
    try:
        yield made
    finally:
        if (home / ".jfremote").exists():
            stop_runner(made)
        made.kill_workers()
        shutil.rmtree(home)
        with pymongo.MongoClient(*server) as client:
            client.drop_database(database)


def stop_runner(terminal: Terminal) -> None:
    """Its processes, too, which may wait long for a server before they see that they are to end."""
    pid_file = terminal.home / ".jfremote" / "e3relax" / "daemon" / "supervisord.pid"
    pid = int(pid_file.read_text()) if pid_file.exists() else None
    terminal.type("jf runner shutdown || true")
    deadline = time.monotonic() + PATIENCE_S
    while pid and (folder := Path(f"/proc/{pid}")).exists():
        time.sleep(0.2)
        if time.monotonic() > deadline:
            with suppress(OSError):
                for number in (folder / "task" / str(pid) / "children").read_text().split():
                    os.kill(int(number), signal.SIGKILL)
                os.kill(pid, signal.SIGKILL)


def find_processes(*words: str) -> list[int]:
    """Numbers of the processes whose command line has one of these words."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            line = file.read_text(errors="replace").replace("\0", " ")
            if any(word in line for word in words):
                found.append(int(file.parent.name))
    return found


def write_project(terminal: Terminal, is_forked: bool = False) -> None:
    """The page's files in the home, with workers that this machine has; forked ones need not import anything."""
    worker = dict(WORKER)
    if is_forked:
        program, place = ROOT / "tests" / "forked_jobs.py", terminal.home / "jobs"
        terminal.start(f"{PYTHON} -Wignore {program} {place}", "jobs.log")
        worker["execution_cmd"] = f"{PYTHON} -S -E {program} {place} {{}}"
    shutil.copy(terminal.clone / "configs" / "e3relax.yaml", terminal.home / ".e3relax.yaml")
    terminal.type("\n".join(["set -e", *read_commands("mkdir -p ~/.jfremote")[:2]]))
    project_file = terminal.home / ".jfremote" / "e3relax.yaml"
    project = yaml.safe_load(project_file.read_text())
    project["workers"] = {name: {**worker, "work_dir": str(terminal.home / "jf" / name)} for name in project["workers"]}
    project_file.write_text(yaml.safe_dump({**project, "runner": RUNNER}, sort_keys=False))  # the first is the default
    if is_forked:
        wait_for(place.exists, "the process from which jobs are forked")


def leave_out_resources(settings: Path) -> None:
    """Of a queue: the workers are shells."""
    content = yaml.safe_load(settings.read_text())
    for worker in content["WORKERS"].values():
        worker.pop("resources", None)
    settings.write_text(yaml.safe_dump(content))


def test_jobflow_remote_by_the_letter(remote_terminal: Terminal, server: tuple[str, int]) -> None:
    """A bad structure, resources that no scheduler knows at first, a node that fails; pairs, a report, a retraining."""
    terminal = remote_terminal
    write_candidates(terminal.clone / "candidates")
    write_screen(terminal.clone, chunk_size=8)
    write_project(terminal)
    reset, doctor, submit, start, status, build = read_commands("mkdir -p ~/.jfremote")[3:]
    assert reset.startswith("jf admin reset")
    terminal.type(reset)
    wrong = terminal.type(doctor, code=1)  # the resources are those of SLURM, the workers are shells
    assert re.search(
        r"role train gives the resources gres, nodes, partition, time, which the\s+scheduler\s+of\s+worker", wrong
    )
    leave_out_resources(terminal.home / ".e3relax.yaml")
    terminal.type(doctor)
    assert "1 prediction jobs are submitted" in terminal.type(submit)
    assert "no runner has taken this project" in terminal.type(status)
    terminal.type(start)
    with pymongo.MongoClient(*server) as client:
        (name,) = [name for name in client.list_database_names() if name.startswith("e3r_remote_")]
        jobs = client[name].jf_jobs
        wait_for(lambda: find_processes(f"execution run {terminal.home}"), "the prediction runs")
        for number in find_processes(str(terminal.home), str(terminal.clone.parent)):  # the runner, too
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        for command in ("jf admin unlock -y", "jf admin unlock-flow -y", "jf admin unlock-runner", start):
            terminal.type(command)
        over = {"state": {"$in": ["COMPLETED", "FAILED", "REMOTE_ERROR"]}}
        wait_for(lambda: jobs.count_documents(over) == 2, "its loss is seen, and what followed has ended")
        assert "1 prediction jobs had failed or were lost, and are submitted again" in terminal.type(submit)
        wait_for(lambda: jobs.count_documents({"job.name": "e3r candidate", "state": "COMPLETED"}) == 7, "relaxed")
        assert jobs.count_documents({}) == 2 + 2 + 7  # prediction, advance, twice; one launch for each candidate
    shown = terminal.type(status)
    assert "remote: finished" in shown
    assert "7 successful" in shown
    assert "1 error" in shown
    assert "is finished" in terminal.type(submit)
    assert "7 new; 7 pairs in the store" in terminal.type(build)
    terminal.type("e3relax report screen oxides -o oxides.html")
    assert "oxides" in (terminal.clone / "oxides.html").read_text()

    # a retraining, at the same workers
    terminal.type("e3relax data freeze mine --fraction 0.3 --potentials --min-pairs 2")
    (terminal.clone / "retrain.yaml").write_text(yaml.safe_dump(RETRAINING))
    assert "7 jobs in 1 flows submitted" in terminal.type("e3relax retrain retrain.yaml --submit remote")
    with pymongo.MongoClient(*server) as client:
        flows = client[name].flows
        wanted = {"name": "e3r retrain", "state": {"$in": ["COMPLETED", "FAILED"]}}
        wait_for(lambda: flows.find_one(wanted), "trained")
        assert flows.find_one(wanted)["state"] == "COMPLETED"
