"""Several ranks against one process: real processes on the CPU, joined with gloo."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch
from forked import Forked, train
from made_halides import Interruption

from e3relax_flows.core.errors import ConfigError
from e3relax_flows.train.distributed import RunRank, World, choose_device, find_first_host, find_rank, join_world
from e3relax_flows.train.loop import train_model
from e3relax_flows.train.progress import LOG_FILE
from e3relax_flows.train.stopping import EXIT_CONTINUE

RTOL = 1e-5  # float32 sums in another order, and what the optimiser makes of it in some ten steps
OPTIONS = {"log": {"every_seconds": 1e-9}, "data": {"own_output": 0.3}}
# refuses to import what a bare training node does not have
BARE = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"pymatgen", "jobflow", "maggma", "typer", "rich", "scipy", "spglib", "pymongo"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Refuse())
import runpy
sys.argv = ["train", sys.argv[1]]
runpy.run_module("e3relax_flows.train", run_name="__main__", alter_sys=True)
"""


def read_records(config):
    return [json.loads(line) for line in (config.out / LOG_FILE).read_text().splitlines()]


def read_losses(config):
    return {record["step"]: record["loss"] for record in read_records(config) if "loss" in record}


def run_environment(**variables):
    return {**os.environ, "OMP_NUM_THREADS": "1", **variables}


def find_free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def test_two_ranks_train_as_one_process(rewrite, config_file):
    schedule = {"max_steps": 16}
    alone = rewrite(out="alone", schedule=schedule, val_every=8, **OPTIONS)
    trainer = train_model(alone)
    pair = rewrite(out="pair")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    run = subprocess.run(
        [*command, "-m", "e3relax_flows.train", str(config_file)],
        env=run_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("end at step 16") == 1  # the first rank alone speaks
    assert run.stdout.count("model ") == 1  # and exports
    assert (pair.out / "tiny" / "weights.safetensors").exists()
    losses = read_losses(pair)
    assert losses.keys() == set(range(1, 17))
    assert list(losses.values()) == pytest.approx(list(read_losses(alone).values()), rel=RTOL)
    records = read_records(pair)
    assert records[0]["world_size"] == 2
    scores = [record["score"] for record in records if record.get("event") == "validation"]
    assert scores[-1] == pytest.approx(trainer.progress.best_score, rel=RTOL)
    ours = [record["over_identity"] for record in records if "loss" in record]
    theirs = [record["over_identity"] for record in read_records(alone) if "loss" in record]
    assert ours[3] == pytest.approx(theirs[3], rel=1e-3)


def test_srun_started_stopped_by_one_rank_and_continued_alone(rewrite, config_file):
    """Two tasks with SLURM's variables; USR1 reaches the second one only; one process goes on."""
    schedule = {"max_steps": 2000}
    alone = rewrite(out="alone", schedule=schedule, **OPTIONS)
    pair = rewrite(out="pair")
    environment = run_environment(
        SLURM_STEP_NUM_TASKS="2", SLURM_STEP_NODELIST="localhost", SLURM_JOB_ID="1234", MASTER_PORT=find_free_port()
    )
    tasks = [
        Forked(
            train,
            str(config_file),
            folder=config_file.parent,
            environment={**environment, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)},
        )
        for rank in range(2)
    ]
    deadline = time.time() + 120
    while time.time() < deadline and not ((pair.out / LOG_FILE).exists() and len(read_losses(pair)) >= 3):
        time.sleep(0.02)
    os.kill(tasks[1].pid, signal.SIGUSR1)
    text = [task.communicate(timeout=60)[0] for task in tasks]
    assert [task.returncode for task in tasks] == [EXIT_CONTINUE] * 2, text
    stop = read_records(pair)[-1]
    assert (stop["event"], stop["reason"]) == ("stop", "another rank")
    assert 3 <= stop["step"] < 200

    last = stop["step"] + 5

    def break_off(record):
        if "loss" in record and record["step"] >= last:
            raise Interruption

    for config in (alone, pair):
        with pytest.raises(Interruption):
            train_model(config, break_off)
    assert read_records(pair)[-6]["event"] == "resume"
    ours, theirs = read_losses(pair), read_losses(alone)
    assert ours.keys() == theirs.keys() == set(range(1, last + 1))
    assert [ours[step] for step in range(1, 9)] == pytest.approx([theirs[step] for step in range(1, 9)], rel=RTOL)
    assert [ours[step] for step in sorted(ours)] == pytest.approx([theirs[step] for step in sorted(ours)], rel=1e-2)


def test_a_bare_node_trains_and_says_how_to_export(rewrite, config_file, e3relax_export):
    config = rewrite(schedule={"max_steps": 3})
    run = subprocess.run(
        [sys.executable, "-c", BARE, str(config_file)],
        env=run_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert (
        f"trained, not exported: 'pymatgen' is not installed here; with all of e3relax-flows installed, run: \
e3relax train {config_file} --export-only"
        in run.stdout
    )
    assert not (config.out / "tiny").exists()
    assert e3relax_export(config_file) == 0
    assert (config.out / "tiny" / "weights.safetensors").exists()


@pytest.fixture
def e3relax_export(monkeypatch):
    """Run `e3relax train CONFIG --export-only` in this process; gives its exit code."""
    from e3relax_flows.cli.app import main

    def run(path):
        monkeypatch.setattr(sys, "argv", ["e3relax", "train", str(path), "--export-only"])
        with pytest.raises(SystemExit) as stop:
            main()
        return stop.value.code

    return run


def test_export_only_needs_a_trained_run(rewrite, config_file, e3relax_export, capsys):
    rewrite()
    assert e3relax_export(config_file) == 2
    assert "no checkpoint with validated weights; train first" in capsys.readouterr().err


def test_places_are_read_from_torchrun_and_from_srun():
    torchrun = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "SLURM_STEP_NUM_TASKS": "2"}
    assert find_rank(torchrun) == RunRank(5, 8, 1, "env://")
    assert find_rank({}) == find_rank({"SLURM_NTASKS": "8", "SLURM_JOB_ID": "7"}) == RunRank()
    srun = {
        "SLURM_STEP_NUM_TASKS": "8",
        "SLURM_PROCID": "5",
        "SLURM_LOCALID": "1",
        "SLURM_JOB_ID": "120345",
        "SLURM_STEP_NODELIST": "gpu-[007-009,012],n1",
    }
    assert find_rank(srun) == RunRank(5, 8, 1, "tcp://gpu-007:29845")
    chosen = srun | {"MASTER_ADDR": "head", "MASTER_PORT": "1234"}
    assert find_rank(chosen).init_method == "tcp://head:1234"
    for gone in ("SLURM_PROCID", "SLURM_STEP_NODELIST"):
        with pytest.raises(ConfigError, match=r" 8 tasks, .*srun --ntasks=1.*torchrun --nproc-per-node=N"):
            find_rank({name: value for name, value in srun.items() if name != gone})


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("n1", "n1"), ("n1,n2", "n1"), ("a[3-4]b,c", "a3b"), ("gpu-[07,09]", "gpu-07"), ("", "")],
)
def test_first_host_of_a_list(nodes, first):
    assert find_first_host(nodes) == first


def test_ranks_of_a_node_take_turns_over_its_devices(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert [choose_device("auto", RunRank(r, 8, r)).index for r in range(6)] == [0, 1, 2, 3, 0, 1]
    assert choose_device("cuda:2", RunRank()) == torch.device("cuda:2")
    with pytest.raises(ConfigError, match=r"'cuda:1' .* 8 ranks; .*cuda or auto"):
        choose_device("cuda:1", RunRank(0, 8, 0))
    assert choose_device("cpu", RunRank(3, 8, 3)) == torch.device("cpu")


def test_a_process_alone_needs_no_group():
    with join_world("cpu", {}) as world:
        assert world == World(torch.device("cpu"))
        assert world.is_first
        assert world.broadcast(lambda: 5) == 5
        assert world.sum_values(torch.tensor([1.0, 2.0])).tolist() == [1.0, 2.0]
        assert not torch.distributed.is_initialized()
