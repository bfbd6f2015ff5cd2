"""A campaign on a real jobflow-remote, typed as on FireWorks, to its end."""

from __future__ import annotations

import json

import pymongo
from test_cluster_tutorial import ROOT, Terminal, read_commands, wait_for
from test_remote_tutorial import PYTHON, leave_out_resources, remote_terminal, write_project  # noqa: F401

PREPARE = """
from emt_campaigns import prepare, register

from e3relax_flows.core.settings import load_settings

settings = load_settings()
prepare(settings)
register(settings, stop={"labels": 2}, labels=2, control=0, chunk_size=32)
"""


def test_a_campaign_runs_to_its_end(
    remote_terminal: Terminal,  # noqa: F811
    server: tuple[str, int],
) -> None:
    """Scores, labels, pairs, a training, the gate; each phase by the worker of its role, without a word in between."""
    terminal = remote_terminal
    terminal.variables["PYTHONPATH"] += f":{ROOT / 'tests'}"
    write_project(terminal, is_forked=True)
    leave_out_resources(terminal.home / ".e3relax.yaml")
    reset, _, _, start, _, _ = read_commands("mkdir -p ~/.jfremote")[3:]
    terminal.type(reset)
    (terminal.clone / "prepare.py").write_text(PREPARE)
    terminal.type(f"{PYTHON} -Wignore prepare.py")
    terminal.type("e3relax campaign run alloys --submit remote")
    terminal.type(start)
    with pymongo.MongoClient(*server) as client:
        (name,) = [name for name in client.list_database_names() if name.startswith("e3r_remote_")]
        flows, jobs = client[name].flows, client[name].jf_jobs
        wait_for(lambda: flows.find_one({"state": {"$in": ["COMPLETED", "FAILED"]}}), "the campaign has ended")
        ran = list(jobs.find({}, {"job.name": 1, "state": 1, "worker": 1, "error": 1}))
    found = json.loads(terminal.type("e3relax campaign status alloys --json"))
    assert (found["state"], found["reason"]) == ("finished", "labels"), (found["message"], ran)
    (generation,) = found["generations"]
    assert [label["state"] for label in generation["label"]["labels"]] == ["successful", "successful"]
    assert generation["retrain"]["decision"] is not None
    workers = {(job["job"]["name"], job["worker"]) for job in ran}
    expected = {("e3r predict", "gpu"), ("EMT relax", "cpu"), ("e3r train", "gpu"), ("e3r gate", "login")}
    assert expected <= workers, workers
