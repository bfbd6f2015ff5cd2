"""Several processes as one run: ranks, sums over ranks, and broadcasts from the first rank.

Gradients are summed with one all-reduce of all parameters after the backward pass instead of by torch's
DistributedDataParallel, which averages over ranks: here ranks have different shares of a batch, maybe none.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, distributed
from torch.nn import Parameter

from e3relax_flows.core.errors import ConfigError, E3RelaxError
from e3relax_flows.graphs.devices import resolve_device

T = TypeVar("T")
TIMEOUT = timedelta(minutes=30)
FIRST_PORT, N_PORTS = 29_500, 1_000  # a SLURM job takes the port of its number


class RunRank(NamedTuple):
    """Rank of this process among those of the run."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    init_method: str = "env://"


@dataclass(frozen=True)
class World:
    """The ranks of a run, from the view of one of them; one rank unless the process group was joined."""

    device: torch.device
    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this rank writes files and logs."""
        return self.rank == 0

    def sum_gradients(self, parameters: Sequence[Parameter]) -> None:
        """Replace the gradients by their sums over ranks."""
        if self.size == 1:
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        distributed.all_reduce(flat)
        parts = flat.split([gradient.numel() for gradient in gradients])
        torch._foreach_copy_(
            gradients, [part.view_as(gradient) for part, gradient in zip(parts, gradients, strict=True)]
        )

    def sum_values(self, values: Tensor) -> Tensor:
        """Sums over ranks of a float64 tensor, on the CPU."""
        if self.size == 1:
            return values.cpu()
        summed = values.to(self.device)
        distributed.all_reduce(summed)
        return summed.cpu()

    def broadcast(self, make: Callable[[], T]) -> T:
        """The result of `make` on the first rank, on all ranks; an error that a user can fix is raised on all.

        Raises
        ------
        E3RelaxError
            The error of `make` on the first rank.
        """
        if self.size == 1:
            return make()
        word: list[Any] = [None, None]
        if self.is_first:
            try:
                word[0] = make()
            except E3RelaxError as error:
                word[1] = error
        distributed.broadcast_object_list(word, src=0, device=self.device)
        if word[1] is not None:
            raise word[1]
        value: T = word[0]
        return value


def find_rank(environ: Mapping[str, str]) -> RunRank:
    """Read the variables of torchrun, else those of a step that srun started.

    Raises
    ------
    ConfigError
        When srun started several tasks without the variables to find each other.
    """
    if "RANK" in environ and "WORLD_SIZE" in environ:
        rank = int(environ["RANK"])
        return RunRank(rank, int(environ["WORLD_SIZE"]), int(environ.get("LOCAL_RANK", rank)))
    n_tasks = int(environ.get("SLURM_STEP_NUM_TASKS", "1"))
    if n_tasks == 1:
        return RunRank()
    nodes = environ.get("SLURM_STEP_NODELIST") or environ.get("SLURM_JOB_NODELIST", "")
    address = environ.get("MASTER_ADDR") or find_first_host(nodes)
    missing = [name for name in ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_JOB_ID") if name not in environ]
    if missing or not address:
        raise ConfigError(
            f"srun started {n_tasks} tasks, but {', '.join(missing) or 'the list of nodes'} is not in the environment, "
            "so each of them would train alone; start one task (srun --ntasks=1), or use torchrun --nproc-per-node=N "
            "-m e3relax_flows.train CONFIG"
        )
    port = environ.get("MASTER_PORT") or str(FIRST_PORT + int(environ["SLURM_JOB_ID"]) % N_PORTS)
    ranks = int(environ["SLURM_PROCID"]), n_tasks, int(environ["SLURM_LOCALID"])
    return RunRank(*ranks, f"tcp://{address}:{port}")


def find_first_host(nodes: str) -> str:
    """First host of a SLURM list: n1 of "n1,n2", gpu-007 of "gpu-[007-009,012],n1"."""
    match = re.match(r"([^,\[]+)(?:\[(\d+)[^\]]*\]([^,]*))?", nodes)
    return "".join(part or "" for part in match.groups()) if match else ""


def choose_device(device: str, member: RunRank) -> torch.device:
    """The device of one rank: on CUDA machines the ranks of a node are distributed over its devices.

    Raises
    ------
    ConfigError
        When the device cannot be used, or several ranks were given one device.
    """
    chosen = resolve_device(device)
    if member.size == 1 or chosen.type == "cpu":
        return chosen
    if chosen.index is not None:
        raise ConfigError(f"device {device!r} is one device for {member.size} ranks; give cuda or auto")
    return torch.device("cuda", member.local_rank % torch.cuda.device_count())


@contextmanager
def join_world(device: str, environ: Mapping[str, str] | None = None) -> Iterator[World]:
    """Join the other processes of this run, if there are any: gloo on the CPU, nccl on CUDA.

    Raises
    ------
    ConfigError
        When there are several processes but this torch or this device cannot work together.
    """
    member = find_rank(os.environ if environ is None else environ)
    chosen = choose_device(device, member)
    if member.size == 1:
        yield World(chosen)
        return
    if not distributed.is_available():
        raise ConfigError(
            f"{member.size} processes were started, but torch {torch.__version__} is built without torch.distributed; "
            "start one, or install another torch"
        )
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    distributed.init_process_group(
        "nccl" if chosen.type == "cuda" else "gloo",
        init_method=member.init_method,
        rank=member.rank,
        world_size=member.size,
        timeout=TIMEOUT,
    )
    try:
        yield World(chosen, member.rank, member.size)
    finally:
        distributed.destroy_process_group()
