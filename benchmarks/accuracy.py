"""Accuracy per source against rivals, and what becomes of other starts for the same targets.

python benchmarks/accuracy.py PAIRS.jsonl.gz --out FOLDER [--model default] [--released FOLDER] [--per-source 120]

PAIRS is a file of pairs as `e3relax train` takes it. Each source is sampled by seed and id alone. Relaxations with
CHGNet are slow: each is kept in FOLDER/relaxations.jsonl as soon as it is done, and a run that was ended goes on there.
Tables and goals are printed as Markdown; accuracy.json and starts.json in FOLDER hold the errors of every structure.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accuracy_cases import Case, JsonlCache, choose_cases, list_sources, list_starts
from accuracy_methods import NETWORK_ROWS, Methods, PotentialRelaxer, Relaxation, mean_seconds
from accuracy_metrics import (
    METRICS,
    WORSE_BY,
    Goal,
    Record,
    Timings,
    judge_starts,
    judge_table,
    measure_output,
    summarize_sources,
)
from accuracy_tables import LABELS, NOTES, format_goals, format_methods, format_starts
from machine import read_cpu
from pymatgen.core import Structure

from e3relax_flows import PredictOptions, Predictor, Verdict, collect_versions, load_pairs, measure_errors


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", type=Path, help="pairs, .jsonl or .jsonl.gz")
    parser.add_argument("--out", type=Path, required=True, help="folder of results and of the cache")
    parser.add_argument("--model", default="default", help="model whose accuracy is measured")
    parser.add_argument("--released", help="model of the released architecture, for its three rows")
    parser.add_argument("--per-source", type=int, default=120, help="at most so many pairs of each source; 0: all")
    parser.add_argument("--rows", nargs="*", choices=list(LABELS), default=list(LABELS), help="rows of the first table")
    parser.add_argument("--whole", action="store_true", help="rows that only use a network on all pairs, too")
    parser.add_argument("--starts-only", action="store_true", help="only the second table (CHGNet's with row chgnet)")
    parser.add_argument("--no-starts", action="store_true", help="only the first table")
    parser.add_argument("--timed", type=int, default=4, help="structures of each source that are timed; 0: none")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sample, the rotations and the noise")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args(arguments)


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    pairs = load_pairs([arguments.pairs])
    cases = choose_cases(pairs, arguments.per_source, arguments.seed)
    ours = Predictor.load(arguments.model, "cpu")
    released = Predictor.load(arguments.released, "cpu") if arguments.released else None
    relaxer = PotentialRelaxer(JsonlCache(arguments.out / "relaxations.jsonl"))
    methods = Methods(ours, released, relaxer, arguments.seed)
    measures = JsonlCache(arguments.out / "measures.jsonl")
    info = describe_run(arguments, ours, released, cases)
    print(f"{info['text']}\n")
    goals: list[Goal] = []
    if not arguments.starts_only:
        goals += run_methods(methods, cases, measures, arguments, info)
    if arguments.whole:
        every = choose_cases(pairs, 0, arguments.seed)
        rows = [row for row in arguments.rows if row in NETWORK_ROWS]
        records = score_rows(methods, every, measures, rows)
        table = {row: summarize_sources(every, found) for row, found in records.items()}
        print(f"## All {len(every)} pairs\n\n{format_methods(table, {})}\n")
        write_json(arguments.out / "whole.json", info, table, name_records(every, records))
    if not arguments.no_starts:
        goals += run_starts(methods, cases, arguments, info)
    print(format_goals(goals))


def describe_run(
    arguments: argparse.Namespace, ours: Predictor, released: Predictor | None, cases: Sequence[Case]
) -> Record:
    """What was run on what, as a dictionary with its `text` for people."""
    counts = {source: sum(case.source == source for case in cases) for source in list_sources(cases)}
    info = {
        "command": shlex.join(["python", *sys.argv]),
        "date": datetime.now(UTC).isoformat(timespec="minutes"),
        "cpu": read_cpu(),
        "cores": os.cpu_count(),
        "threads": arguments.threads,
        "versions": collect_versions(),
        "model_id": ours.model_id,
        "released_id": released.model_id if released else None,
        "seed": arguments.seed,
        "counts": counts,
    }
    versions = ", ".join(f"{name} {info['versions'][name]}" for name in VERSIONS if name in info["versions"])
    info["text"] = (
        f"`{info['command']}` · {info['date']} · {info['cpu']}, {info['cores']} cores, {info['threads']} thread(s) · "
        f"{versions} · model {info['model_id']}"
        + (f", released {info['released_id']}" if released else "")
        + f" · {', '.join(f'{n} {source}' for source, n in counts.items())} (seed {arguments.seed})"
    )
    return info


VERSIONS = ("python", "torch", "pymatgen", "chgnet", "e3relax-flows")


def run_methods(
    methods: Methods, cases: Sequence[Case], measures: JsonlCache, arguments: argparse.Namespace, info: Record
) -> list[Goal]:
    """Score, time and print the rows of the first table; their goals."""
    records = score_rows(methods, cases, measures, arguments.rows)
    table = {row: summarize_sources(cases, found) for row, found in records.items()}
    timings = time_rows(methods, cases, list(records), arguments.timed)
    print(f"## Methods\n\n{format_methods(table, timings)}\n")
    settings = {"steps": Relaxation().steps, "limit": Relaxation().cpu_limit_s}
    print(NOTES.format(threads=arguments.threads, timed=arguments.timed, **settings) + "\n")
    write_json(arguments.out / "accuracy.json", info | {"timings": timings}, table, name_records(cases, records))
    return judge_table(table, timings)


def score_rows(
    methods: Methods, cases: Sequence[Case], measures: JsonlCache, rows: Sequence[str]
) -> dict[str, list[Record]]:
    """Records of each case, by row."""
    records = {}
    for row, run in methods.list_rows().items():
        if row in rows:
            say(f"{row}: {len(cases)} structures")
            outputs = run(cases)
            records[row] = [measure_output(case, output, measures) for case, output in zip(cases, outputs, strict=True)]
    return records


def time_rows(methods: Methods, cases: Sequence[Case], rows: Sequence[str], per_source: int) -> Timings:
    """Time per structure, timings[row]["alone" or "list"][source or "all"], of the first cases of each source."""
    timings: Timings = {}
    sources = list_sources(cases)
    timed = [case for source in sources for case in [each for each in cases if each.source == source][:per_source]]
    groups = {source: [i for i, case in enumerate(timed) if case.source == source] for source in sources}
    groups["all"] = list(range(len(timed)))
    for row in rows if timed else ():
        say(f"{row}: timing {len(timed)} structures")
        methods.time_alone(row, timed[:1])  # the first call loads and warms up
        spent = methods.time_alone(row, timed)
        alone = {name: mean_seconds([spent[i] for i in group]) for name, group in groups.items()}
        listed = alone
        if row in NETWORK_ROWS:
            listed = {name: methods.time_list(row, [timed[i] for i in group]) for name, group in groups.items()}
        timings[row] = {"alone": alone, "list": listed}
    return timings


def run_starts(methods: Methods, cases: Sequence[Case], arguments: argparse.Namespace, info: Record) -> list[Goal]:
    """Score and print the second table; its goals."""
    starts: dict[str, list[tuple[Case, Structure]]] = {"initial": [(case, case.start) for case in cases]}
    if "chgnet" in arguments.rows:
        relaxed = [(case, methods.relaxer.relax_cached(case, case.start, "initial", Relaxation())) for case in cases]
        starts["relaxed by CHGNet"] = [(case, output.build(case)) for case, output in relaxed if output.status == "ok"]
    make: Callable[[Case], Structure]
    for name, make in list_starts(arguments.seed).items():
        starts[name] = [(case, make(case)) for case in cases]
    records = {name: score_starts(methods.ours, pairs) for name, pairs in starts.items() if pairs}
    table = {name: summarize_starts(found) for name, found in records.items()}
    print(f"## Other starts for the same targets\n\n{format_starts(table)}\n")
    write_json(arguments.out / "starts.json", info, table, records)
    return judge_starts({name: summary for name, summary in table.items() if name != "initial"})


def score_starts(predictor: Predictor, starts: Sequence[tuple[Case, Structure]]) -> list[Record]:
    """Errors of each start, of the prediction from it and of what the guards leave of that."""
    structures = [structure for _, structure in starts]
    predictions = predictor.predict(structures, PredictOptions(), ids=[case.id for case, _ in starts])
    records = []
    for (case, start), prediction in zip(starts, predictions, strict=True):
        accepted = prediction.verdict == Verdict.ACCEPT
        raw = prediction.structure or start
        sides = {"start": start, "raw": raw, "served": raw if accepted else start}
        record: Record = {"id": case.id, "source": case.source, "refused": not accepted, "score": prediction.score}
        for side, structure in sides.items():
            errors = measure_errors(structure, case.target)
            record[side] = errors.model_dump() | {"combined": errors.combined}
        for side in ("raw", "served"):
            record[f"{side}_worse"] = record[side]["combined"] > record["start"]["combined"] + WORSE_BY
        records.append(record)
    return records


def summarize_starts(records: Sequence[Record]) -> dict[str, Record]:
    """Means of the records of one kind of start, by source and of all."""
    names = sorted({record["source"] for record in records})
    groups = {name: [record for record in records if record["source"] == name] for name in names} | {"all": records}
    table = {}
    for name, group in groups.items():
        row: Record = {"n": len(group)}
        for side in ("start", "raw", "served"):
            row[side] = {key: float(np.mean([record[side][key] for record in group])) for key in (*METRICS, "combined")}
        for key in ("refused", "raw_worse", "served_worse"):
            row[key] = float(np.mean([record[key] for record in group]))
        table[name] = row
    return table


def name_records(cases: Sequence[Case], records: Mapping[str, Sequence[Record]]) -> dict[str, list[Record]]:
    """Records with the id and the source of their case."""
    return {
        row: [{"id": case.id, "source": case.source} | record for case, record in zip(cases, found, strict=True)]
        for row, found in records.items()
    }


def write_json(path: Path, info: Record, table: Mapping[str, Any], records: Mapping[str, Any]) -> None:
    """Write what was run, the means and every record."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"run": info, "means": table, "records": records}))


def say(text: str) -> None:
    """Progress, apart from the tables."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
