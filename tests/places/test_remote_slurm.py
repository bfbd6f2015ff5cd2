"""jobflow-remote's workers on a real SLURM: a screen in the partitions that the page's project names for its roles."""

from __future__ import annotations

import shutil

import pymongo
import pytest
import yaml
from slurm import Slurm, slurm  # noqa: F401
from test_cluster_tutorial import Terminal, read_commands, replace_in, wait_for, write_screen
from test_remote_tutorial import RUNNER, remote_terminal  # noqa: F401
from test_slurm import SMALLER, write_metals

ELSEWHERE = ("host", "user", "key_filename")  # of a worker that the runner reaches by ssh


@pytest.fixture
def login_node(remote_terminal: Terminal, slurm: Slurm) -> Terminal:  # noqa: F811
    """The files of the page on the login node of a cluster, where the runner runs, too."""
    terminal = remote_terminal
    terminal.variables |= slurm.environment
    replace_in(terminal.clone / "configs", SMALLER)
    shutil.copy(terminal.clone / "configs" / "e3relax.yaml", terminal.home / ".e3relax.yaml")
    terminal.type("\n".join(["set -e", *read_commands("mkdir -p ~/.jfremote")[:2]]))
    project_file = terminal.home / ".jfremote" / "e3relax.yaml"
    project = yaml.safe_load(project_file.read_text())
    for worker in project["workers"].values():
        changed = {"type": "local", "work_dir": worker["work_dir"].replace("/scratch/me", str(terminal.home))}
        worker |= {**changed, "timeout_execute": 120}
        for name in ELSEWHERE:
            worker.pop(name, None)
    assert [worker["scheduler_type"] for worker in project["workers"].values()] == ["shell", "slurm", "slurm"]
    project_file.write_text(yaml.safe_dump({**project, "runner": RUNNER}))
    activate = terminal.home / "venv" / "bin" / "activate"  # the environment of a login, not of this process
    activate.parent.mkdir(parents=True)
    activate.write_text("".join(f"export {name}={terminal.variables[name]}\n" for name in ("PATH", "PYTHONPATH")))
    return terminal


def test_roles_run_in_the_partitions_of_their_workers(
    login_node: Terminal,
    slurm: Slurm,  # noqa: F811
    server: tuple[str, int],
) -> None:
    terminal = login_node
    write_metals(terminal.clone / "candidates")
    write_screen(terminal.clone)
    reset, doctor, submit, start, status, _ = read_commands("mkdir -p ~/.jfremote")[3:]
    terminal.type(reset)
    terminal.type(doctor)
    terminal.type(submit)
    terminal.type(start)
    with pymongo.MongoClient(*server) as client:
        (name,) = [name for name in client.list_database_names() if name.startswith("e3r_remote_")]
        jobs = client[name].jf_jobs
        wait_for(lambda: jobs.count_documents({"job.name": "e3r candidate", "state": "COMPLETED"}) == 2, "relaxed")
    assert "2 successful" in terminal.type(status)
    lines = slurm.run("squeue", "--states=all", "--noheader", "--format=%P %j").splitlines()
    ran = sorted(line for line in lines if "e3r" in line)
    assert ran == ["gpu e3r_predict", "standard e3r_candidate", "standard e3r_candidate"]
