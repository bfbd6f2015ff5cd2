"""One relaxation of `dft_savings.py`, in a process of its own: a potential where the arm has one, then GPAW."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jobflow import JobStore
from maggma.stores import MemoryStore
from pymatgen.core import Structure

from e3relax_flows import Engine, RelaxationResult, get_engine, identify_structure, run_flow_locally

GRACE_S = 300.0  # beyond the time limit, which is looked at between ionic steps

Numbers = dict[str, Any]


@dataclass(frozen=True)
class Start:
    """Where DFT begins, or why it begins nowhere else than from the initial structure."""

    structure: Structure | None
    prepare_s: float | None = None
    refused: bool = False
    message: str | None = None


def relax_apart(
    folder: Path, start: Structure, settings: Numbers, potential: Numbers | None, time_limit_s: float
) -> Numbers:
    """Relax in a process of its own, which is ended when it does not end by itself."""
    folder.mkdir(parents=True, exist_ok=True)
    job, answer = folder / "job.json", folder / "answer.json"
    answer.unlink(missing_ok=True)
    content = {"start": start.as_dict(), "settings": settings, "potential": potential, "time_limit_s": time_limit_s}
    job.write_text(json.dumps(content))
    command = [sys.executable, str(Path(__file__).resolve().with_name("dft_savings.py")), "--worker", str(job)]
    began = time.monotonic()
    threads = os.environ | {"OMP_NUM_THREADS": "1"}
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, env=threads)
        try:
            process.wait(time_limit_s + GRACE_S)
        except subprocess.TimeoutExpired:
            return {"message": f"ended after {time.monotonic() - began:.0f} s without an answer"}
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    if not answer.exists():
        tail = (folder / "log.txt").read_text(errors="replace").strip().splitlines()[-1:] or ["nothing printed"]
        return {"message": f"the process ended with status {process.returncode}: {tail[0][:300]}"}
    return dict(json.loads(answer.read_text()))


def work_on(job: Path) -> None:
    """Body of the process: relax as the job file says, through the engines, and leave answer.json beside it."""
    task = json.loads(job.read_text())
    structure = Structure.from_dict(task["start"])
    answer: Numbers = {}
    try:
        if task["potential"]:
            structure, answer = relax_with_potential(structure, task["potential"], job.parent)
        answer |= relax_with_gpaw(structure, task["settings"], task["time_limit_s"], job.parent)
    except Exception as error:  # the boundary of one relaxation
        answer |= {"converged": False, "message": f"{type(error).__name__}: {error}"[:500]}
    (job.parent / "answer.part").write_text(json.dumps(answer))
    (job.parent / "answer.part").rename(job.parent / "answer.json")


def relax_with_potential(structure: Structure, potential: Numbers, folder: Path) -> tuple[Structure, Numbers]:
    """The potential's relaxed structure, and what it took; one that did not converge counts as far as it came."""
    settings = dict(potential)
    result = run_engine(get_engine(settings.pop("engine"), **settings, time_limit_s=None), structure, folder)
    return result.relaxed, {
        "prepare_s": result.wall_time_s,
        "prepare_steps": result.n_ionic_steps,
        "prepare_converged": result.converged,
    }


def relax_with_gpaw(structure: Structure, settings: Numbers, time_limit_s: float, folder: Path) -> Numbers:
    """Numbers of one relaxation with GPAW's engine."""
    engine = get_engine(
        "gpaw",
        fmax=settings["fmax"],
        steps=settings["steps"],
        time_limit_s=time_limit_s,
        calculator_kwargs=settings["calculator"],
    )
    began = time.process_time()
    result = run_engine(engine, structure, folder)
    message = None
    if not result.converged:
        over = result.wall_time_s is not None and result.wall_time_s >= time_limit_s
        reason = f"the time limit of {time_limit_s:.0f} s" if over else "its limits"
        message = f"not converged within {reason}, after {result.n_ionic_steps} ionic steps"
    return {
        "start_id": identify_structure(structure),
        "start_volume": structure.volume,
        "cpu_s": time.process_time() - began,
        "wall_s": result.wall_time_s,
        "n_ionic": result.n_ionic_steps,
        "n_scf": result.n_electronic_steps,
        "converged": result.converged,
        "energy_per_atom": result.energy / len(structure) if result.energy is not None else None,
        "volume": result.relaxed.volume,
        "relaxed": pack_structure(result.relaxed),
        "message": message,
    }


def pack_structure(structure: Structure) -> Numbers:
    """A structure in one short line: lattice [3, 3] Å, fractional coordinates, atomic numbers."""
    return {
        "lattice": np.round(structure.lattice.matrix, 6).tolist(),
        "frac": np.round(structure.frac_coords, 6).tolist(),
        "numbers": list(structure.atomic_numbers),
    }


def run_engine(engine: Engine, structure: Structure, folder: Path) -> RelaxationResult:
    """One structure through one engine with jobflow's local manager.

    Raises
    ------
    RuntimeError
        When a job failed, with its error.
    """
    with JobStore(MemoryStore()) as store:
        flow = engine.make(structure)
        run = run_flow_locally(flow, store, folder / engine.name)
        if run.failures:
            raise RuntimeError(run.failures[0].error)
        return engine.read([output.resolve(store) for output in engine.collect_outputs(flow)])
