"""What pre-relaxation saves a real DFT code: variable-cell relaxations with GPAW from several starts, side by side.

python benchmarks/dft_savings.py PAIRS.jsonl.gz [--generated FILE.jsonl.gz] --results FILE.jsonl [--arms ...] [--n 28]

initial         the initial structure of the pair
predicted       what the guard alone serves: the prediction, or the initial structure where it refuses
second-opinion  what the guard serves when CHGNet gives a second opinion
polished        the same with the calibrated number of CHGNet's steps from the accepted prediction
chgnet          what CHGNet makes of the initial structure: FIRE, variable cell, to 0.05 eV/Å, 300 steps at most
sevennet        what SevenNet's 7net-l3i5 makes of it, likewise

All relaxations of a crystal share cut-off, k-points and every other setting; equal starts are relaxed once. Each
relaxation adds one line to the results; what is there is not run again, so an interrupted run goes on where it was, on
another machine too. With --table nothing is run. A second pair file holds crystals of generative models; its lines need
no relaxed structure, and its crystals take turns with those of the first.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import platform
import signal
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import cache
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

from dft_savings_cases import Case, Rules, choose_cases
from dft_savings_relax import Start, relax_apart, work_on
from dft_savings_table import ARMS, PREDICTED, find_model_id, join_records, write_tables
from pymatgen.core import Structure

from e3relax_flows import PredictOptions, Verdict, collect_versions, hash_content, identify_structure, resolve_model

FMAX, STEPS = 0.05, 100  # eV/Å, as the engine's default; ionic steps
SMEARING = 0.05  # eV, as the engine's default
SHARED = {"fmax": 0.05, "steps": 300, "optimizer": "FIRE"}
POTENTIALS: dict[str, dict[str, Any]] = {
    "chgnet": {"engine": "chgnet", **SHARED},
    "sevennet": {"engine": "mlip", "potential": "SevenNet", "checkpoint": "7net-l3i5", **SHARED},
}
OPTIONS: dict[str, dict[str, Any]] = {
    "predicted": {},
    "second-opinion": {"second_opinion": "chgnet"},
    "polished": {"second_opinion": "chgnet", "polish": "auto"},
}
# The coordinates of pair files have six digits and potentials compute in single precision: with GPAW's own tolerance of
# 1e-7 hardly any start would have symmetry, which changes no result but multiplies the k-points.
SYMMETRY = {"tolerance": 1e-3}
PAIR_RULES = Rules(max_cost=0.2, topping_cost=0.5, max_per_prototype=8, k_length=11.0, k_length_metal=14.0)
# crystals of generative models are larger, metals most of them: no rule on what they are made of
GENERATED_RULES = Rules(
    max_cost=1.2,
    topping_cost=0.0,
    max_per_prototype=4,
    needs_balance=False,
    needs_distance=False,
    even_electrons=False,
    k_length=10.0,
    k_length_metal=12.0,
    coarse_above=0.52,  # the first five, which were relaxed before this rule, cost less
)
PACKAGES = ("e3relax-flows", "gpaw", "chgnet", "sevenn", "ase", "torch")

Record = dict[str, Any]


@dataclass(frozen=True)
class Task:
    """One relaxation to run: a crystal, an arm, and the key of its record."""

    case: Case
    rank: int
    arm: str
    settings: dict[str, Any]
    model_id: str | None
    key: str


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


def plan_task(case: Case, rank: int, arm: str, model_id: str) -> Task:
    """Task whose key is a hash of everything that its result depends on."""
    settings = collect_settings(case)
    content: dict[str, Any] = {"id": case.id, "arm": arm, "settings": settings}
    if arm in POTENTIALS:
        content["potential"] = POTENTIALS[arm]
    if arm in PREDICTED:
        content |= {"model_id": model_id, "options": PredictOptions(**OPTIONS[arm]).model_dump(mode="json")}
    return Task(case, rank, arm, settings, model_id if arm in PREDICTED else None, hash_content(content))


def describe_case(case: Case, rank: int) -> Record:
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
        "pair_volume": case.relaxed and case.relaxed.volume,
        "cost": case.cost,
    }


def read_records(path: Path) -> dict[str, Record]:
    """Records by key, the last of each."""
    lines = path.read_text().splitlines() if path.exists() else []
    return {record["key"]: record for record in map(json.loads, lines)}


def run_tasks(
    tasks: list[Task],
    path: Path,
    relax: Callable[[Task, Structure | None], Record],
    predict: Callable[[list[Task]], dict[str, Start]],
    retry: bool = False,
) -> Iterator[Record]:
    """Run what has no record yet, and hand out each new record once it is in the file.

    Parameters
    ----------
    relax
        Runs one task from a start (None: the arm makes its own) and gives numbers, or a message.
    predict
        Gives the starts of the predicted arms by key.
    retry
        Run failed and unconverged relaxations again.
    """
    known = read_records(path)
    todo = [task for task in tasks if task.key not in known or (retry and _has_failed(known[task.key]))]
    awaiting = [task for task in todo if task.arm in PREDICTED]
    starts = predict(awaiting) if awaiting else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    for task in todo:
        start = Start(task.case.initial) if task.arm == "initial" else starts.get(task.key)
        record: Record = {
            "key": task.key,
            "case": describe_case(task.case, task.rank),
            "arm": task.arm,
            "settings": task.settings,
            "model_id": task.model_id,
            "versions": {name: version for name, version in collect_versions(PACKAGES).items() if name in PACKAGES},
            "machine": platform.processor() or platform.machine(),
        }
        if start is not None:
            record |= {"prepare_s": start.prepare_s, "refused": start.refused, "message": start.message}
        if start is None or start.structure is not None:
            structure = start and start.structure
            record |= _find_same_start(known, task, structure) or relax(task, structure)
        with path.open("a") as stream:
            stream.write(json.dumps(record) + "\n")
        known[task.key] = record
        yield record


def _find_same_start(known: dict[str, Record], task: Task, start: Structure | None) -> Record | None:
    """Numbers of another arm's relaxation of the crystal from the same start, with the name of that arm."""
    if start is None:
        return None
    start_id = identify_structure(start)
    for record in known.values():
        same = record["case"]["id"] == task.case.id and record["settings"] == task.settings
        if same and record.get("start_id") == start_id and record["key"] != task.key and not _has_failed(record):
            own = (
                "key",
                "case",
                "arm",
                "settings",
                "model_id",
                "versions",
                "machine",
                "prepare_s",
                "refused",
                "message",
            )
            return {name: value for name, value in record.items() if name not in own} | {"same_as": record["arm"]}
    return None


def _has_failed(record: Record) -> bool:
    return not record.get("converged") and not record.get("refused")


def predict_starts(tasks: list[Task], model: str) -> dict[str, Start]:
    """Starts of all tasks of predicted arms, one batch per arm, as a flow makes them; refused ones have none."""
    from e3relax_flows import Predictor

    predictor = Predictor.load(model, device="cpu")
    starts: dict[str, Start] = {}
    for arm, fields in OPTIONS.items():
        chosen = [task for task in tasks if task.arm == arm]
        predictions = predictor.predict([task.case.initial for task in chosen], **fields) if chosen else []
        for task, found in zip(chosen, predictions, strict=True):
            accepted = found.verdict is Verdict.ACCEPT
            starts[task.key] = Start(
                found.served if accepted else None,
                prepare_s=found.wall_time_s,
                refused=found.verdict is Verdict.REFUSE,
                message=None if accepted else f"{found.verdict}: {found.message}",
            )
    return starts


@cache
def count_valence(symbol: str) -> float:
    """Electrons that GPAW's PBE dataset of an element treats."""
    from gpaw.setup_data import SetupData

    return float(SetupData(symbol, "PBE").Nv)


def read_rows(path: Path) -> Iterable[Record]:
    """Rows of a pair file, gzipped or not."""
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
        yield from map(json.loads, lines)


def choose_all(arguments: argparse.Namespace) -> list[Case]:
    """Crystals of both files in turns, three of the first for one of the second; prints how they were chosen."""
    chosen: list[list[Case]] = []
    for path, n, rules in (
        (arguments.pairs, arguments.n, PAIR_RULES),
        (arguments.generated, arguments.n_generated, GENERATED_RULES),
    ):
        chosen.append([])
        if path is None:
            continue
        chosen[-1], funnel = choose_cases(read_rows(path), n, rules, count_valence)
        print(f"{path.name}: {asdict(rules)}")
        print("\n".join(f"{left:6d} {what}" for what, left in funnel))
    first, second = chosen
    turns = zip_longest(first[::3], first[1::3], first[2::3], sorted(second, key=lambda case: case.cost))
    return [case for case in chain.from_iterable(turns) if case is not None]


def main() -> None:
    arguments = parse_arguments()
    if arguments.worker:
        work_on(arguments.worker)
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended; the same command goes on"))  # and end the worker with us
    if not arguments.table:
        model_id = resolve_model(arguments.model).model_id
        cases = choose_all(arguments)
        for rank, case in enumerate(cases, 1):
            print(f"{rank:3d} {case.formula:12s} {case.space_group:10s} {case.ecut:.0f} eV {case.kpts} {case.id}")
        arms = arguments.arms.split(",")
        tasks = [plan_task(case, rank, arm, model_id) for rank, case in enumerate(cases, 1) for arm in arms]
        work = Path(tempfile.mkdtemp(prefix="dft_savings_"))
        for record in run_tasks(
            tasks,
            arguments.results,
            lambda task, start: relax_apart(
                work / task.key,
                start or task.case.initial,
                task.settings,
                POTENTIALS.get(task.arm),
                arguments.time_limit,
            ),
            lambda waiting: predict_starts(waiting, arguments.model),
            arguments.retry,
        ):
            says = (
                f"{record.get('n_ionic')} ionic steps, {record.get('n_scf')} SCF, {record.get('cpu_s') or 0:.0f} CPU s"
            )
            same = f", as {record['same_as']}" if "same_as" in record else ""
            print(f"{record['case']['formula']} {record['arm']}: {record.get('message') or says + same}", flush=True)
    records = list(read_records(arguments.results).values())
    if not records:
        sys.exit(f"{arguments.results}: no results yet; run without --table")
    versions = ", ".join(f"{name} {version}" for name, version in sorted(records[-1]["versions"].items()))
    notes = [f"Model {find_model_id(records)}; {versions}; one thread on a machine with {os.cpu_count()} cores."]
    print(write_tables(join_records(records), notes))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", type=Path, nargs="?", help="pair file, .jsonl or .jsonl.gz")
    parser.add_argument("--generated", type=Path, help="pair file of crystals of generative models")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/dft_savings.jsonl"))
    parser.add_argument("--arms", default=",".join(ARMS), help=f"some of {','.join(ARMS)}")
    parser.add_argument("--model", default="default")
    parser.add_argument("--n", type=int, default=28, help="crystals of the pair file; fewer are the first of more")
    parser.add_argument("--n-generated", type=int, default=14, help="crystals of the other")
    parser.add_argument("--time-limit", type=float, default=3600.0, help="s of wall time per relaxation")
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
