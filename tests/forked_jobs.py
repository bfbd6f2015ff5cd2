"""Jobs of jobflow-remote in processes forked from one that has imported what they need, in place of `jf execution run`.

`python forked_jobs.py SOCKET` waits for orders; with a FOLDER it gives one, and ends as the job in that folder does.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import traceback
from importlib import import_module
from typing import Any


def serve(path: str) -> None:
    """Fork a process for each order."""
    from forked import MODULES

    for name in ("jobflow_remote.jobs.run", "e3relax_flows.screening.remote", *MODULES):
        import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        while True:
            connection, _ = listener.accept()
            with connection:
                if os.fork() == 0:
                    os._exit(run(connection))


def run(connection: Any) -> int:
    """Run the job of an order where it was given; 0 where it has left its output."""
    try:
        with connection.makefile() as lines:
            order = json.loads(lines.readline())
        os.environ.clear()
        os.environ.update(order["environment"])
        os.chdir(order["folder"])
        descriptor = os.open("job.log", os.O_WRONLY | os.O_CREAT)
        for stream in (sys.stdout, sys.stderr):
            os.dup2(descriptor, stream.fileno())
        import_module("jobflow_remote.jobs.run").run_remote_job(order["folder"])
        sys.stdout.flush()
        connection.sendall(b"0")
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def give_order(path: str, folder: str) -> int:
    """Let a job be run; 0 where it has left its output."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        connection.sendall(json.dumps({"folder": folder, "environment": dict(os.environ)}).encode() + b"\n")
        return int(connection.recv(1) != b"0")


if __name__ == "__main__":
    sys.exit(give_order(*sys.argv[1:]) if len(sys.argv) > 2 else serve(sys.argv[1]))
