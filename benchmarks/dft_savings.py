"""What pre-relaxation saves a real DFT code: variable-cell relaxations with GPAW from three starts, side by side.

python benchmarks/dft_savings.py PAIRS.jsonl.gz --out FOLDER [--arms initial,chgnet,predicted] [--model NAME] [--n 24]

initial    the initial structure of the pair
predicted  what the network makes of it, with default options; where the guards refuse it, DFT begins from the initial
           structure, as the flow does, and costs what that costs
chgnet     what CHGNet makes of it: FIRE, variable cell, to 0.05 eV/Å, 300 steps at most

All relaxations of a crystal share cut-off, k-points and every other setting. Each leaves one file in FOLDER/results;
what is there is not run again, so an interrupted run goes on where it was. With --table nothing is run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from dft_savings_cases import Case, Rules, choose_cases
from dft_savings_table import join_records, write_tables
from jobflow import JobStore
from maggma.stores import MemoryStore
from pymatgen.core import Structure

from e3relax_flows import Engine, PredictOptions, RelaxationResult, Verdict, run_flow_locally
from e3relax_flows.core.ids import hash_content, identify_structure
from e3relax_flows.core.model_folders import find_model
from e3relax_flows.core.run_information import collect_versions
from e3relax_flows.train.dataset import iter_pair_rows

ARMS = ("initial", "chgnet", "predicted")
FMAX, STEPS = 0.05, 100  # eV/Å, as the engine's default; ionic steps
CHGNET = {"fmax": 0.05, "steps": 300, "optimizer": "FIRE"}
SMEARING = 0.05  # eV, as the engine's default
# The coordinates of pair files have six digits and potentials compute in single precision: with GPAW's own tolerance of
# 1e-7 hardly any start would have symmetry, which changes no result but multiplies the k-points.
SYMMETRY = {"tolerance": 1e-3}
GRACE_S = 300.0  # beyond the time limit, which is looked at between ionic steps


@dataclass(frozen=True)
class Task:
    """One relaxation to run: a crystal, an arm, and where its record goes."""

    case: Case
    rank: int
    arm: str
    settings: dict[str, Any]
    model_id: str | None
    path: Path


def collect_settings(case: Case) -> dict[str, Any]:
    """What all relaxations of a crystal share, besides the code itself."""
    return {
        "calculator": {
            "mode": {"name": "pw", "ecut": case.ecut},
            "xc": "PBE",
            "kpts": {"size": list(case.kpts), "gamma": True},
            "occupations": {"name": "fermi-dirac", "width": SMEARING},
            "symmetry": SYMMETRY,
        },
        "fmax": FMAX,
        "steps": STEPS,
        "initial": identify_structure(case.initial),
    }


def plan_task(case: Case, rank: int, arm: str, model_id: str | None, out: Path) -> Task:
    """Task whose file name holds crystal, arm, and a hash of everything that its result depends on."""
    settings = collect_settings(case)
    content: dict[str, Any] = {"id": case.id, "arm": arm, "settings": settings}
    if arm == "chgnet":
        content["chgnet"] = CHGNET
    if arm == "predicted":
        content |= {"model_id": model_id, "options": PredictOptions().model_dump(mode="json")}
    slug = re.sub(r"[^A-Za-z0-9]+", "-", case.id)[-60:].strip("-")
    path = out / "results" / f"{slug}.{arm}.{hash_content(content)}.json"
    return Task(case, rank, arm, settings, model_id if arm == "predicted" else None, path)


def describe_case(case: Case, rank: int) -> dict[str, Any]:
    """What the tables say of a crystal."""
    return {
        "id": case.id,
        "rank": rank,
        "source": case.source,
        "formula": case.formula,
        "chemistry": case.chemistry,
        "space_group": case.space_group,
        "n_sites": len(case.initial),
        "strain": case.strain,
        "displacement": case.displacement,
        "pair_volume": case.relaxed.volume,
        "cost": case.cost,
    }


def write_json(path: Path, content: Any) -> None:
    """Write the whole file or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, suffix=".part")
    with os.fdopen(handle, "w") as stream:
        json.dump(content, stream)
    os.replace(name, path)


def write_choice(out: Path, cases: list[Case], funnel: list[tuple[str, int]]) -> None:
    """Keep what was chosen and why beside the results; tables take the results that belong to it."""
    settings = {case.id: collect_settings(case) for case in cases}
    write_json(out / "choice.json", {"rules": asdict(Rules()), "funnel": funnel, "settings": settings})


def read_records(out: Path) -> list[dict[str, Any]]:
    """Records of the chosen crystals with their present settings, the oldest first."""
    chosen = json.loads((out / "choice.json").read_text())["settings"] if (out / "choice.json").exists() else {}
    paths = sorted((out / "results").glob("*.json"), key=lambda path: path.stat().st_mtime)
    records = [json.loads(path.read_text()) for path in paths]
    return [record for record in records if chosen.get(record["case"]["id"]) == record["settings"]]


def run_tasks(
    tasks: list[Task],
    relax: Callable[[Task, Structure | None], dict[str, Any]],
    predict: Callable[[list[Case]], dict[str, dict[str, Any]]],
    retry: bool = False,
) -> Iterator[dict[str, Any]]:
    """Run what has no record yet, and hand out each new record once it is on disk.

    Parameters
    ----------
    relax
        Runs one task from a start (None: the arm makes its own) and gives numbers, or a message.
    predict
        Gives by id "start" (None: refused or failed), "prepare_s", "refused" and "message" for cases.
    retry
        Run failed and unconverged relaxations again.
    """
    todo = [task for task in tasks if not task.path.exists() or (retry and _has_failed(task.path))]
    awaiting = [task.case for task in todo if task.arm == "predicted"]
    predictions = predict(awaiting) if awaiting else {}
    for task in todo:
        record: dict[str, Any] = {
            "case": describe_case(task.case, task.rank),
            "arm": task.arm,
            "settings": task.settings,
            "model_id": task.model_id,
            "versions": collect_versions(),
            "machine": platform.processor() or platform.machine(),
        }
        if task.arm == "predicted":
            prediction = predictions[task.case.id]
            start = prediction["start"]
            record |= {key: prediction[key] for key in ("prepare_s", "refused", "message")}
            if start is not None:
                record |= relax(task, start)
        else:
            record |= relax(task, task.case.initial if task.arm == "initial" else None)
        write_json(task.path, record)
        yield record


def _has_failed(path: Path) -> bool:
    record = json.loads(path.read_text())
    return not record.get("converged") and not record.get("refused")


def predict_starts(cases: list[Case], model: str) -> dict[str, dict[str, Any]]:
    """Predictions of all cases in one batch, as a flow makes them; refused ones have no start."""
    from e3relax_flows import Predictor

    predictions = Predictor.load(model, device="cpu").predict([case.initial for case in cases])
    return {
        case.id: {
            "start": prediction.structure if prediction.verdict == Verdict.ACCEPT else None,
            "prepare_s": prediction.wall_time_s,
            "refused": prediction.verdict == Verdict.REFUSE,
            "message": None if prediction.verdict == Verdict.ACCEPT else f"{prediction.verdict}: {prediction.message}",
        }
        for case, prediction in zip(cases, predictions, strict=True)
    }


def relax_apart(task: Task, start: Structure | None, work: Path, time_limit_s: float) -> dict[str, Any]:
    """Run a task in a process of its own, which is ended when it does not end by itself."""
    folder = work / task.path.stem
    folder.mkdir(parents=True, exist_ok=True)
    job, answer = folder / "job.json", folder / "answer.json"
    answer.unlink(missing_ok=True)
    given = start or task.case.initial
    content = {"arm": task.arm, "start": given.as_dict(), "settings": task.settings, "time_limit_s": time_limit_s}
    write_json(job, content)
    command = [sys.executable, str(Path(__file__).resolve()), "--worker", str(job)]
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
    return json.loads(answer.read_text())


def work_on(job: Path) -> None:
    """Body of the process: relax as the job file says, through the engines, and leave answer.json beside it."""
    task = json.loads(job.read_text())
    structure = Structure.from_dict(task["start"])
    answer: dict[str, Any] = {}
    try:
        if task["arm"] == "chgnet":
            structure, answer = relax_with_chgnet(structure, job.parent)
        answer |= relax_with_gpaw(structure, task["settings"], task["time_limit_s"], job.parent)
    except Exception as error:  # the boundary of one relaxation
        answer |= {"converged": False, "message": f"{type(error).__name__}: {error}"[:500]}
    write_json(job.parent / "answer.json", answer)


def relax_with_chgnet(structure: Structure, folder: Path) -> tuple[Structure, dict[str, Any]]:
    """CHGNet's relaxed structure, and what it took; one that did not converge counts as far as it came."""
    from e3relax_flows import get_engine

    engine = get_engine("chgnet", **CHGNET, time_limit_s=None)
    result = run_engine(engine, structure, folder)
    return result.relaxed, {
        "prepare_s": result.wall_time_s,
        "prepare_steps": result.n_ionic_steps,
        "prepare_converged": result.converged,
    }


def relax_with_gpaw(
    structure: Structure, settings: dict[str, Any], time_limit_s: float, folder: Path
) -> dict[str, Any]:
    """Numbers of one relaxation with GPAW's engine."""
    from e3relax_flows import get_engine

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
        "start": structure.as_dict(),
        "start_volume": structure.volume,
        "cpu_s": time.process_time() - began,
        "wall_s": result.wall_time_s,
        "n_ionic": result.n_ionic_steps,
        "n_scf": result.n_electronic_steps,
        "converged": result.converged,
        "energy_per_atom": result.energy / len(structure) if result.energy is not None else None,
        "volume": result.relaxed.volume,
        "relaxed": result.relaxed.as_dict(),
        "message": message,
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


@cache
def count_valence(symbol: str) -> float:
    """Electrons that GPAW's PBE dataset of an element treats."""
    from gpaw.setup_data import SetupData

    return float(SetupData(symbol, "PBE").Nv)


def main() -> None:
    arguments = parse_arguments()
    if arguments.worker:
        work_on(arguments.worker)
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended; the same command goes on"))  # and end the worker with us
    out, model_id = arguments.out, find_model(arguments.model).model_id
    if not arguments.table:
        cases, funnel = choose_cases(iter_pair_rows(arguments.pairs), arguments.n, Rules(), count_valence)
        write_choice(out, cases, funnel)
        print(f"Rules: {asdict(Rules())}")
        print("\n".join(f"{left:6d} {what}" for what, left in funnel))
        for rank, case in enumerate(cases, 1):
            print(f"{rank:3d} {case.formula:12s} {case.space_group:10s} {case.ecut:.0f} eV {case.kpts} {case.id}")
        arms = arguments.arms.split(",")
        tasks = [plan_task(case, rank, arm, model_id, out) for rank, case in enumerate(cases, 1) for arm in arms]
        for record in run_tasks(
            tasks,
            lambda task, start: relax_apart(task, start, out / "work", arguments.time_limit),
            lambda waiting: predict_starts(waiting, arguments.model),
            arguments.retry,
        ):
            says = (
                f"{record.get('n_ionic')} ionic steps, {record.get('n_scf')} SCF, {record.get('cpu_s') or 0:.0f} CPU s"
            )
            print(f"{record['case']['formula']} {record['arm']}: {record.get('message') or says}", flush=True)
    records = read_records(out)
    if not records:
        sys.exit(f"{out}: no results yet; run without --table")
    versions = records[0]["versions"]
    codes = f"GPAW {versions.get('gpaw')}, CHGNet {versions.get('chgnet')}"
    notes = [f"Model {model_id}; {codes}; one thread on a machine with {os.cpu_count()} cores."]
    pairs = arguments.pairs.name if arguments.pairs else "PAIRS"
    command = f"python benchmarks/dft_savings.py {pairs} --out {out.name} --n {arguments.n} --model {arguments.model}"
    table = write_tables(join_records(records, model_id), command, notes)
    (out / "table.md").write_text(table)
    print(table)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", type=Path, nargs="?", help="pair file, .jsonl or .jsonl.gz")
    parser.add_argument("--out", type=Path, default=Path("dft_savings"), help="folder of results and table.md")
    parser.add_argument("--arms", default=",".join(ARMS), help="some of initial,chgnet,predicted")
    parser.add_argument("--model", default="default")
    parser.add_argument("--n", type=int, default=24, help="crystals; fewer are the first of more")
    parser.add_argument("--time-limit", type=float, default=1200.0, help="s of wall time per relaxation")
    parser.add_argument("--retry", action="store_true", help="run failed and unconverged relaxations again")
    parser.add_argument("--table", action="store_true", help="write the table from what is there, run nothing")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.arms.split(",")) - set(ARMS))
    if unknown:
        parser.error(f"arm {unknown[0]!r} is unknown; known: {', '.join(ARMS)}")
    if arguments.pairs is None and not (arguments.table or arguments.worker):
        parser.error("name a pair file, or give --table for what is there")
    return arguments


if __name__ == "__main__":
    main()
