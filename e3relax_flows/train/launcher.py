"""Start a training inside a job: in this process, or as several processes with torchrun or srun."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from e3relax_flows.core.errors import ConfigError, ModelError
from e3relax_flows.schemas.retraining import LaunchConfig
from e3relax_flows.schemas.training import load_train_config
from e3relax_flows.train.distributed import FIRST_PORT, N_PORTS, find_first_host
from e3relax_flows.train.loop import launch_training
from e3relax_flows.train.progress import LOG_FILE, format_record
from e3relax_flows.train.stopping import EXIT_CONTINUE, SIGNALS

MODULE = "e3relax_flows.train"
OUTPUT_FILE = "processes.log"

logger = logging.getLogger(__name__)


class Allocation(NamedTuple):
    """Allocation of a job."""

    n_nodes: int
    n_devices: int  # GPUs on each node; 0: none, or none visible
    first_host: str
    job_number: int


class Run(NamedTuple):
    """Result of a training."""

    is_finished: bool
    reason: str | None  # why it was stopped before its end
    command: list[str]  # launch line; empty: in this process


def read_allocation(n_visible: int, environ: Mapping[str, str] | None = None) -> Allocation:
    """Read the SLURM allocation of this job; without SLURM, this node and the GPUs that torch finds.

    Parameters
    ----------
    n_visible
        GPUs that torch finds here.
    """
    environ = os.environ if environ is None else environ
    n_nodes = int(environ.get("SLURM_JOB_NUM_NODES") or environ.get("SLURM_NNODES") or 1)
    first = environ.get("SLURM_GPUS_ON_NODE", "")
    n_devices = int(first) if first.isdigit() else n_visible
    number = environ.get("SLURM_JOB_ID", "0")
    return Allocation(
        n_nodes,
        n_devices,
        find_first_host(environ.get("SLURM_JOB_NODELIST", "")),
        int(number) if number.isdigit() else 0,
    )


def compose_command(config: Path, launch: LaunchConfig, allocation: Allocation) -> list[str]:
    """Launch line of a training; empty if it runs in this process.

    | how          | line                                                                                    |
    | process      | none                                                                                    |
    | torchrun     | torchrun --standalone --nnodes=1 --nproc-per-node=P -m e3relax_flows.train CONFIG       |
    | srun         | srun --nodes=N --ntasks-per-node=P python -m e3relax_flows.train CONFIG                 |
    | srun-torchrun| srun --nodes=N --ntasks-per-node=1 torchrun --nnodes=N --nproc-per-node=P --rdzv-... -m |

    Raises
    ------
    ConfigError
        When the job has several nodes but one is to be used, or SLURM's list of nodes is needed and missing.
    """
    n_processes = launch.processes or max(1, allocation.n_devices)
    how = launch.how
    if how == "auto":
        how = "srun" if allocation.n_nodes > 1 else ("torchrun" if n_processes > 1 else "process")
    if how in ("process", "torchrun") and allocation.n_nodes > 1:
        raise ConfigError(
            f"launch.how is {launch.how}, but the job has {allocation.n_nodes} nodes, and only one would be used; "
            "set launch.how: srun, or request one node"
        )
    training = ["-m", MODULE, str(config), "--no-export"]
    if how == "process":
        if n_processes > 1:
            raise ConfigError(f"launch.how is process, but launch.processes is {n_processes}; set launch.how: torchrun")
        return []
    torchrun = [sys.executable, "-m", "torch.distributed.run"]
    if how == "torchrun":
        return [*torchrun, "--standalone", "--nnodes=1", f"--nproc-per-node={n_processes}", *training]
    srun = ["srun", f"--nodes={allocation.n_nodes}"]
    if how == "srun":
        return [*srun, f"--ntasks-per-node={n_processes}", "--kill-on-bad-exit=0", sys.executable, *training]
    if not allocation.first_host:
        raise ConfigError("launch.how is srun-torchrun, but SLURM_JOB_NODELIST is not set; submit it as a SLURM job")
    port = FIRST_PORT + allocation.job_number % N_PORTS
    meeting = [
        f"--nnodes={allocation.n_nodes}",
        f"--nproc-per-node={n_processes}",
        "--rdzv-backend=c10d",
        f"--rdzv-id={allocation.job_number}",
        f"--rdzv-endpoint={allocation.first_host}:{port}",
    ]
    return [*srun, "--ntasks-per-node=1", *torchrun, *meeting, *training]


def count_devices() -> int:
    """GPUs that torch finds."""
    import torch

    return torch.cuda.device_count()


def run_training(config: Path, launch: LaunchConfig) -> Run:
    """Train, or continue, until the end or a reason to stop; signals reach every process.

    Raises
    ------
    ConfigError
        When the training cannot be started as configured.
    ModelError
        When a process died without saving; its output is in `processes.log` next to the configuration.
    """
    settings = load_train_config(config)
    command = compose_command(config, launch, read_allocation(count_devices()))
    if not command:
        result = launch_training(settings, lambda record: logger.info("%s", format_record(record)))
        return Run(not result.is_stopped, result.trainer.stopped, command)
    logger.info("training in %s: launched as %s", settings.out, " ".join(command))
    before = read_last_event(settings.out / LOG_FILE)
    code = _run_processes(command, config.with_name(OUTPUT_FILE))
    # torchrun gives 1 whenever a process does not give 0, so the reason is read from the log
    if code == 0:
        return Run(True, None, command)
    last = read_last_event(settings.out / LOG_FILE)
    # below 0: torchrun itself was ended by a signal after its processes had saved
    if last.get("event") == "stop" and (code in (1, EXIT_CONTINUE) or (code < 0 and last != before)):
        return Run(False, str(last.get("reason")), command)
    output = config.with_name(OUTPUT_FILE)
    raise ModelError(
        f"training ended with code {code} and without saving: {_find_error(output)}; all of its output is in {output}"
    )


def _find_error(output: Path) -> str:
    """The last line that our command printed as an error, else the last one of all."""
    lines = output.read_text(errors="replace").splitlines() or ["it printed nothing"]
    return next((line for line in reversed(lines) if line.startswith("error: ")), lines[-1])


def read_last_event(log: Path) -> dict[str, Any]:
    """The last complete event of a run's log; empty if there is none."""
    if not log.exists():
        return {}
    for line in reversed(log.read_text().splitlines()):
        try:
            record = json.loads(line)
        except ValueError:  # cut by a kill
            continue
        if "event" in record:
            return dict(record)
    return {}


def _run_processes(command: list[str], output: Path) -> int:
    with output.open("ab") as stream:
        process = subprocess.Popen(
            command,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env={**os.environ, "TORCHELASTIC_SIGNALS_TO_HANDLE": "SIGTERM,SIGINT,SIGUSR1"},
        )
        with _hand_on_signals(process):
            return process.wait()


@contextmanager
def _hand_on_signals(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Send the signals that mean "save and stop" to the launched process as SIGTERM, while entered."""

    def hand_on(_number: int, _frame: FrameType | None) -> None:
        process.send_signal(signal.SIGTERM)

    is_main = threading.current_thread() is threading.main_thread()  # elsewhere signals cannot be handled
    before = {number: signal.signal(number, hand_on) for number in SIGNALS} if is_main else {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
