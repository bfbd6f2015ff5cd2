"""`e3relax data check`: pairs of the store that would not be made today, and the datasets and models that use them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from e3relax_flows.cli.pair_files import read_runs
from e3relax_flows.cli.pairs import JOBFLOW, JsonOption, TasksOption, open_tasks
from e3relax_flows.report import console

if TYPE_CHECKING:
    from maggma.core import Store

    from e3relax_flows.ledger.workspace import Workspace
    from e3relax_flows.pairs.checking import PairCheck
    from e3relax_flows.pairs.store import PairStores
    from e3relax_flows.pairs.tasks import BuiltPair

SHOWN = 20  # pairs that are listed on a terminal


def check_pairs(
    tasks: TasksOption = JOBFLOW,
    dry_run: Annotated[bool, typer.Option("--dry-run/--apply", help="Count, or mark them as left out.")] = True,
    as_json: JsonOption = False,
) -> None:
    """Count the pairs that would not be made today, by reason, and name the datasets and models made with them.

    Every pair is checked by itself, and its calculation is read again if it is still available: in the outcomes,
    the job store, and the files and folders that were imported. With --apply a pair whose functional differs today
    is replaced; the others are left out. Exit code 1 if pairs are found and not changed.
    """
    from e3relax_flows.ledger.workspace import open_workspace
    from e3relax_flows.pairs.checking import PairCheck
    from e3relax_flows.pairs.store import open_pair_stores

    with open_workspace() as workspace, open_tasks(tasks, workspace) as jobs:
        pairs = workspace.get(open_pair_stores)
        check = PairCheck(pairs)
        with console.make_progress() as progress, console.hide_warnings():
            step = progress.add_task("Reading pairs", total=None, note="")
            for _ in check.read_stored():
                progress.update(step, advance=1)
            step = progress.add_task("Reading calculations", total=None, note="")
            for built in _build_again(check, workspace, pairs, jobs):
                check.compare(built)
                progress.update(step, advance=1)
        report = _describe(check, dry_run) | _name_users(set(check.findings), workspace)
        if not dry_run:
            check.apply()
    console.print_json(report) if as_json else _print_report(check, report)
    if dry_run and check.findings:
        raise typer.Exit(1)


def _build_again(check: PairCheck, workspace: Workspace, pairs: PairStores, jobs: Store | None) -> Iterator[BuiltPair]:
    """Results of every calculation today; nothing is written."""
    from e3relax_flows.engines.task_reader import TaskReader
    from e3relax_flows.pairs.builder import PairBuilder
    from e3relax_flows.pairs.files import Stated, read_pair_file
    from e3relax_flows.pairs.imports import import_folders, import_pair
    from e3relax_flows.pairs.prediction_index import PredictionIndex

    builder = PairBuilder(
        pairs.pairs,
        pairs.records,
        tasks=jobs,
        reader=TaskReader(),
        predictions=workspace.predictions,
        outcomes=workspace.outcomes,
        rebuild=True,
        is_dry=True,
    )
    builder.connect()
    for item in builder.get_items():
        yield from builder.process_item(item)[1]
    index, stated = PredictionIndex(workspace.predictions), Stated()
    for folder in check.list_folders():
        for several in import_folders(folder, list(read_runs(folder, stated)), index):
            yield from several
    for file in check.list_files():
        for entry in read_pair_file(file, stated):
            if (restated := check.restate(entry)) is not None:
                yield import_pair(restated, index)


def _describe(check: PairCheck, dry_run: bool) -> dict[str, Any]:
    findings = sorted(check.findings.values(), key=lambda finding: (finding.reason, finding.pair_id))
    return {
        "n_pairs": check.n_pairs,
        "n_compared": check.n_compared,
        "n_not_found": check.n_not_found,
        "not_checked": dict(sorted(check.not_checked.items())),
        "n_wrong": len(findings),
        "reasons": dict(sorted(Counter(finding.reason.value for finding in findings).items())),
        "pairs": [
            {
                "pair_id": finding.pair_id,
                "origin_id": finding.origin_id,
                "source": finding.source,
                "reason": finding.reason.value,
                "message": finding.message,
                "replaced_by": finding.built.pair.pair_id if finding.built and finding.built.pair else None,
            }
            for finding in findings
        ],
        "dry_run": dry_run,
    }


def _name_users(pair_ids: set[str], workspace: Workspace) -> dict[str, Any]:
    """Datasets and holdouts that list some of the pairs, with how many, and models that were trained on them."""
    from e3relax_flows.pairs.checking import list_holders
    from e3relax_flows.pairs.dataset_store import DATASET_KEY, HOLDOUT_KEY, open_dataset_stores
    from e3relax_flows.registry.store import find_model_docs

    if not pair_ids:
        return {"datasets": {}, "holdouts": {}, "models": []}
    stores = workspace.get(open_dataset_stores)
    datasets = list_holders(stores.datasets, DATASET_KEY, ("train", "val"), pair_ids)
    holdouts = list_holders(stores.holdouts, HOLDOUT_KEY, ("pair_ids",), pair_ids)
    models = find_model_docs({}, workspace)
    trained = {doc.model_id for doc in models if doc.dataset_id in datasets}
    heirs = {doc.model_id for doc in models if doc.parent_id in trained} - trained
    while more := {doc.model_id for doc in models if doc.parent_id in heirs} - trained - heirs:
        heirs |= more
    return {
        "datasets": datasets,
        "holdouts": holdouts,
        "models": [
            {"model_id": doc.model_id, "name": doc.name, "dataset_id": doc.dataset_id, "parent_id": doc.parent_id}
            for doc in models
            if doc.model_id in trained | heirs
        ],
    }


def _print_report(check: PairCheck, report: dict[str, Any]) -> None:
    unknown = report["n_not_found"] + sum(report["not_checked"].values())
    console.print_line(f"{check.n_pairs} pairs, {check.n_compared} compared with their calculations")
    if unknown:
        console.print_line(
            f"{unknown} checked by themselves only: calculation, or the prediction it began at, not found"
        )
    if not report["n_wrong"]:
        console.print_line("all of them would be made today")
        return
    counts = ", ".join(f"{reason}: {count}" for reason, count in report["reasons"].items())
    console.print_line(f"{report['n_wrong']} would not be made today ({counts})")
    for row in report["pairs"][:SHOWN]:
        console.print_line(f"  {row['pair_id']}  {row['reason']}: {row['message']} ({row['origin_id']})")
    if len(report["pairs"]) > SHOWN:
        console.print_line(f"  and {len(report['pairs']) - SHOWN} more; all with --json")
    for kind in ("datasets", "holdouts"):
        for name, count in report[kind].items():
            console.print_line(f"{kind[:-1]} {name} lists {count} of them")
    for model in report["models"]:
        is_direct = model["dataset_id"] in report["datasets"]
        how = f"trained on dataset {model['dataset_id']}" if is_direct else "started from the weights of such a model"
        console.print_line(f"model {model['name']} ({model['model_id']}) was {how}")
    if report["dry_run"]:
        console.print_line("nothing was changed; --apply marks them as left out")
    else:
        console.print_line("marked as left out; freeze the holdouts and train the models named here again")
