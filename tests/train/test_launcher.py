"""How trainings are started: launch lines for every kind of allocation, and processes that are stopped and go on."""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import threading
import time

import pytest

from e3relax_flows.core.errors import ConfigError, ModelError
from e3relax_flows.schemas.retraining import LaunchConfig
from e3relax_flows.train.launcher import Allocation, compose_command, read_allocation, read_last_event, run_training
from e3relax_flows.train.loop import LOCK_FILE, train_model

SLURM = {"SLURM_JOB_ID": "4017", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "gpu-[007-008]"}


@pytest.mark.parametrize(
    ("environ", "n_visible", "allocation"),
    [
        ({}, 0, Allocation(1, 0, "", 0)),
        ({}, 2, Allocation(1, 2, "", 0)),
        (SLURM, 4, Allocation(2, 4, "gpu-007", 4017)),
        # one GPU is visible to the batch step, but each node has four
        (SLURM | {"SLURM_GPUS_ON_NODE": "4"}, 1, Allocation(2, 4, "gpu-007", 4017)),
        (SLURM | {"SLURM_GPUS_ON_NODE": "a100:4"}, 1, Allocation(2, 1, "gpu-007", 4017)),
    ],
)
def test_the_allocation_is_read_from_slurm(environ, n_visible, allocation):
    assert read_allocation(n_visible, environ) == allocation


ONE, FOUR, NODES = Allocation(1, 1, "", 0), Allocation(1, 4, "", 0), Allocation(2, 4, "gpu-007", 4017)


@pytest.mark.parametrize(
    ("launch", "allocation", "words"),
    [
        ({}, Allocation(1, 0, "", 0), []),
        ({}, ONE, []),
        ({}, FOUR, ["--standalone", "--nnodes=1", "--nproc-per-node=4"]),
        ({"processes": 2}, ONE, ["--standalone", "--nnodes=1", "--nproc-per-node=2"]),
        ({"how": "process"}, ONE, []),
        ({}, NODES, ["srun", "--nodes=2", "--ntasks-per-node=4"]),
        ({"processes": 1}, NODES, ["srun", "--nodes=2", "--ntasks-per-node=1"]),
        (
            {"how": "srun-torchrun"},
            NODES,
            ["srun", "--ntasks-per-node=1", "--nnodes=2", "--nproc-per-node=4", "--rdzv-endpoint=gpu-007:29517"],
        ),
    ],
)
def test_launch_lines(tmp_path, launch, allocation, words):
    command = compose_command(tmp_path / "run.yaml", LaunchConfig(**launch), allocation)
    assert [word for word in words if word in command] == words
    if words:
        assert command[-4:] == ["-m", "e3relax_flows.train", str(tmp_path / "run.yaml"), "--no-export"]
        assert sys.executable in command
        assert (command[0] == "srun") == (allocation.n_nodes > 1)
    else:
        assert command == []


@pytest.mark.parametrize(
    ("launch", "allocation", "message"),
    [
        ({"how": "process"}, NODES, "has 2 nodes"),
        ({"how": "torchrun"}, NODES, "launch.how: srun"),
        ({"how": "process", "processes": 2}, ONE, "launch.how: torchrun"),
        ({"how": "srun-torchrun"}, Allocation(2, 4, "", 0), "SLURM_JOB_NODELIST"),
    ],
)
def test_launches_that_would_waste_an_allocation_are_refused(tmp_path, launch, allocation, message):
    with pytest.raises(ConfigError, match=message):
        compose_command(tmp_path / "run.yaml", LaunchConfig(**launch), allocation)


def test_processes_that_get_a_signal_are_continued(rewrite, config_file):
    config = rewrite(out="stopped", schedule={"max_steps": 3000}, log={"every_seconds": 0.01}, val_every=3000)
    log = config.out / "log.jsonl"

    def stop():
        while not log.exists() or "loss" not in log.read_text():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    stopper = threading.Thread(target=stop)
    stopper.start()
    run = run_training(config_file, LaunchConfig(processes=1, how="torchrun"))
    stopper.join()
    assert (run.is_finished, run.reason) == (False, "SIGTERM")
    step = read_last_event(log)["step"]
    assert 0 < step < 3000
    rewrite(walltime_hours=1e-6, stop_minutes=0)
    assert run_training(config_file, LaunchConfig()).reason == "walltime"
    assert read_last_event(log)["step"] > step


def test_a_process_that_dies_is_an_error_with_its_output(rewrite, config_file):
    config = rewrite(out="broken", data={"functionals": ["PBEsol"]})
    with pytest.raises(ModelError, match=r"(?s)PBE.*processes\.log"):
        run_training(config_file, LaunchConfig(how="torchrun"))
    assert not (config.out / "last.ckpt").exists()


def test_a_folder_is_one_training_at_a_time(rewrite):
    config = rewrite(schedule={"max_steps": 2})
    config.out.mkdir(parents=True)
    with (config.out / LOCK_FILE).open("a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match=rf"{config.out}; .*`out`"):
            train_model(config)
    assert train_model(config).progress.step == 2
