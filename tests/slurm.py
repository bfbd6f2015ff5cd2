"""A SLURM of this machine alone: two partitions on loopback, started in seconds where its programs are installed."""

from __future__ import annotations

import os
import platform
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "squeue", "sinfo", "srun", "munged")
START_S = 60
CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CryptoType=crypto/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=2,bf_interval=2
ReturnToService=2
MpiDefault=none
KillWait=5
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} RealMemory=2000 Gres=gpu:1 State=UNKNOWN
PartitionName=standard Nodes=ALL Default=YES MaxTime=INFINITE OverSubscribe=FORCE:4 State=UP
PartitionName=gpu Nodes=ALL MaxTime=INFINITE OverSubscribe=FORCE:4 State=UP
"""


@dataclass
class Slurm:
    """Its folder, and the environment in which its commands find it."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    def run(self, *command: str) -> str:
        """Run one of its commands."""
        done = subprocess.run(
            command, env={**os.environ, **self.environment}, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    """A queueing system with the partitions standard and gpu; the test is skipped where it cannot be had."""
    missing = [program for program in PROGRAMS if shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin") is None]
    if missing or os.getuid() != 0:
        pytest.skip(f"needs root and SLURM (apt-get install slurm-wlm munge); missing: {', '.join(missing) or 'root'}")
    folder = tmp_path_factory.mktemp("slurm")
    os.chmod(folder, 0o755)
    for parent in list(folder.parents)[:2]:
        os.chmod(parent, 0o755)  # munge wants its socket reachable
    for name in ("state", "spool"):
        (folder / name).mkdir()
    (folder / "munge.key").write_bytes(os.urandom(1024))
    (folder / "munge.key").chmod(0o400)
    (folder / "gres.conf").write_text("Name=gpu File=/dev/null\n")
    configuration = folder / "slurm.conf"
    configuration.write_text(
        CONFIGURATION.format(host=platform.node(), ports=_find_ports(2), folder=folder, cores=os.cpu_count())
    )
    made = Slurm(folder, {"SLURM_CONF": str(configuration)})
    try:
        _start(made, "munged", "--key-file", str(folder / "munge.key"), "--socket", str(folder / "munge.socket"),
               "--pid-file", str(folder / "munged.pid"), "--log-file", str(folder / "munged.log"),
               "--seed-file", str(folder / "munge.seed"), "--force")  # fmt: skip
        _start(made, "slurmctld")
        _start(made, "slurmd", "-N", platform.node())
        deadline = time.monotonic() + START_S
        while "idle" not in made.run("sinfo", "-h", "-o", "%T"):
            assert time.monotonic() < deadline, (folder / "slurmctld.log").read_text()[-2000:]
            time.sleep(0.5)
        yield made
    finally:
        with suppress(AssertionError, OSError):
            made.run("scancel", "--user=root")
            time.sleep(1)
        for name in ("slurmd", "slurmctld", "munged"):
            with suppress(OSError, ValueError):
                os.kill(int((folder / f"{name}.pid").read_text()), signal.SIGTERM)


def _start(made: Slurm, program: str, *options: str) -> None:
    path = shutil.which(program, path=f"/usr/sbin:{os.environ['PATH']}")
    made.run(str(path), *options)


def _find_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
