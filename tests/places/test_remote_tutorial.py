"""The tutorial's part on jobflow-remote, typed from an empty home, with its real runner, in its own environment.

E3RELAX_TEST_REMOTE names the Python of an environment with jobflow-remote, which `.ci/run` makes; without it: skipped.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pymongo
import pytest
import yaml
from test_cluster_tutorial import ROOT, Terminal, read_commands, replace_in, wait_for, write_candidates, write_screen

PYTHON = os.environ.get("E3RELAX_TEST_REMOTE", "")
# a worker that this machine has, in the place of those of the page
WORKER = {"type": "local", "scheduler_type": "shell", "max_jobs": 2, "timeout_execute": 120}
RUNNER = {"delay_checkout": 1, "delay_check_run_status": 1, "delay_advance_status": 1}


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
            made.type("jf runner shutdown || true")
        made.kill_workers()
        shutil.rmtree(home)
        with pymongo.MongoClient(*server) as client:
            client.drop_database(database)


def test_jobflow_remote_by_the_letter(remote_terminal: Terminal, server: tuple[str, int]) -> None:
    """With one bad structure, and resources that the scheduler does not know at first; pairs without extra words."""
    terminal = remote_terminal
    write_candidates(terminal.clone / "candidates")
    for name in ("Ni", "Pd", "Pt", "Au"):
        (terminal.clone / "candidates" / f"{name}.vasp").unlink()
    write_screen(terminal.clone)
    commands = read_commands("mkdir -p ~/.jfremote")
    settings = terminal.home / ".e3relax.yaml"
    shutil.copy(terminal.clone / "configs" / "e3relax.yaml", settings)
    terminal.type("\n".join(["set -e", *commands[:2]]))
    project_file = terminal.home / ".jfremote" / "e3relax.yaml"
    project = yaml.safe_load(project_file.read_text())
    project["workers"] = {name: {**WORKER, "work_dir": str(terminal.home / "jf" / name)} for name in project["workers"]}
    project_file.write_text(yaml.safe_dump({**project, "runner": RUNNER}))
    reset, doctor, submit, start, status, build = commands[3:]
    assert reset.startswith("jf admin reset")
    terminal.type(reset)
    wrong = terminal.type(doctor, code=1)  # the resources are those of SLURM, the workers are shells
    assert re.search(
        r"role train gives the resources gres, nodes, partition, time, which the\s+scheduler\s+of\s+worker", wrong
    )
    content = yaml.safe_load(settings.read_text())
    for worker in content["WORKERS"].values():
        worker.pop("resources", None)
    settings.write_text(yaml.safe_dump(content))
    terminal.type(doctor)
    assert "1 prediction jobs are submitted" in terminal.type(submit)
    assert "no runner has taken this project" in terminal.type(status)
    terminal.type(start)
    with pymongo.MongoClient(*server) as client:
        (name,) = [name for name in client.list_database_names() if name.startswith("e3r_remote_")]
        jobs = client[name].jf_jobs
        wait_for(lambda: jobs.count_documents({"job.name": "e3r candidate", "state": "COMPLETED"}) == 3, "relaxed")
        assert jobs.count_documents({}) == 2 + 3  # prediction, advance, and one launch for each candidate
    shown = terminal.type(status)
    assert "remote: finished" in shown
    assert "3 successful" in shown
    assert "1 error" in shown
    assert "is finished" in terminal.type(submit)
    assert "3 new; 3 pairs in the store" in terminal.type(build)
