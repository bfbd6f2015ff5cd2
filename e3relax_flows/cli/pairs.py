"""`e3relax data build` and `data show`: pairs from finished relaxations, and counts of them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from e3relax_flows.core.errors import ConfigError
from e3relax_flows.core.functionals import spell_functional
from e3relax_flows.report import console

if TYPE_CHECKING:
    from maggma.core import Store

    from e3relax_flows.ledger.workspace import Workspace
    from e3relax_flows.schemas.pairs import PairDoc

JOBFLOW, NO_TASKS = "jobflow", "none"
KINDS = ("new", "replaced", "unchanged")
SHORT_ID = 4  # digits of an id that is cut

TasksOption = Annotated[
    str,
    typer.Option(
        help="Job store to read: jobflow's, none, or a YAML file that describes a maggma store of jobs or of "
        "emmet's task documents.",
        metavar="jobflow|none|FILE",
    ),
]
SourceOption = Annotated[str | None, typer.Option("--source", help="Name of the source of the pairs.")]
DryOption = Annotated[bool, typer.Option("--dry-run", help="Count what would be built, and write nothing.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on stdout and nothing else.")]


def build_pairs(
    tasks: TasksOption = JOBFLOW,
    source: SourceOption = None,
    rebuild: Annotated[bool, typer.Option(help="Read again what was built before.")] = False,
    dry_run: DryOption = False,
    as_json: JsonOption = False,
) -> None:
    """Make pairs of the outcomes of screens and of the other relaxations in the job store; existing pairs are kept."""
    from maggma.utils import grouper

    from e3relax_flows.engines.task_reader import TaskReader
    from e3relax_flows.ledger.workspace import open_workspace
    from e3relax_flows.pairs.builder import PairBuilder
    from e3relax_flows.pairs.store import CURRENT, open_pair_stores

    with open_workspace() as workspace, open_tasks(tasks, workspace) as jobs:
        targets = workspace.get(open_pair_stores)
        builder = PairBuilder(
            targets.pairs,
            targets.records,
            tasks=jobs,
            reader=TaskReader(),
            predictions=workspace.predictions,
            outcomes=workspace.outcomes,
            source=source,
            rebuild=rebuild,
            is_dry=dry_run,
        )
        builder.connect()
        with console.make_progress() as progress, console.hide_warnings():
            task = progress.add_task("Building", total=None, note="")
            for chunk in grouper(builder.get_items(), builder.chunk_size):
                builder.update_targets([builder.process_item(item) for item in chunk])
                progress.update(task, advance=len(chunk))
        n_pairs = targets.pairs.count(CURRENT)
    _report(builder.counts, n_pairs, dry_run, as_json)


def show_pairs(
    pair: Annotated[str | None, typer.Argument(help="Id of a pair, or its first digits; none: counts.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Count the pairs by source, functional and start, and those left out by reason; or show one pair."""
    from e3relax_flows.pairs.store import open_pair_stores

    with open_pair_stores() as stores:
        if pair is not None:
            doc = _find_pair(stores.pairs, pair)
            typer.echo(doc.model_dump_json(indent=1)) if as_json else _print_pair(doc)
            return
        counts = _count(stores.pairs, stores.records)
    if as_json:
        typer.echo(json.dumps(counts, indent=1))
    else:
        _print_counts(counts)


def report_left_out(counts: Counter[str]) -> str:
    """Such as "2 left out (unconverged: 2)"; empty if none was."""
    reasons = {name: count for name, count in sorted(counts.items()) if name not in KINDS}
    if not reasons:
        return ""
    return f"{sum(reasons.values())} left out ({', '.join(f'{name}: {count}' for name, count in reasons.items())})"


@contextmanager
def open_tasks(spec: str, workspace: Workspace) -> Iterator[Store | None]:
    """The job store of `--tasks`: jobflow's, or if none is configured that of jobflow-remote's project."""
    from e3relax_flows.places.remote import open_remote_jobs
    from e3relax_flows.stores.opening import build_store, is_job_store_configured

    if spec == NO_TASKS:
        yield None
        return
    if spec == JOBFLOW:
        with ExitStack() as stack:
            remote = None if is_job_store_configured() else stack.enter_context(open_remote_jobs())
            if remote is not None:
                _print_where(f"jobs are read from the job store of jobflow-remote's project, {remote.name}")
            yield workspace.jobs if remote is None else remote
        return
    with build_store(_read_spec(Path(spec)), workspace.settings, "outputs", "uuid") as store:
        yield store


def _read_spec(path: Path) -> dict[str, Any]:
    """Description of a store in a YAML file, which may be jobflow's."""
    import yaml

    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(
            f"--tasks {path}: {error}; give jobflow, none, or a YAML file such as {{type: MongoStore, database: ..., "
            "collection_name: ...}"
        ) from error
    for key in ("JOB_STORE", "docs_store"):
        content = content.get(key, content) if isinstance(content, dict) else content
    if not isinstance(content, dict) or not {"type", "@class"} & content.keys():
        raise ConfigError(f"--tasks {path}: it does not describe a store; it needs a `type`, such as MongoStore")
    return content


def _report(counts: Counter[str], n_pairs: int, dry_run: bool, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({"counts": dict(counts), "n_pairs": n_pairs, "dry_run": dry_run}, indent=1))
    else:
        made = ", ".join(f"{counts[name]} {name}" for name in KINDS if counts[name]) or "nothing new"
        parts = [f"{'would be ' if dry_run else ''}{made}", report_left_out(counts), f"{n_pairs} pairs in the store"]
        console.print_line("; ".join(part for part in parts if part))
    if counts["unreadable"]:
        raise typer.Exit(1)


def _count(pairs: Store, records: Store) -> dict[str, Any]:
    """Counts of current pairs by source, functional and start, and of reasons."""
    fields = ("source", "functional", "start_kind", "is_dft", "superseded_by", "n_atoms")
    table: Counter[tuple[str, str, str, bool]] = Counter()
    n_superseded = 0
    for raw in pairs.query({}, list(fields)):
        if raw.get("superseded_by") is not None:
            n_superseded += 1
        else:
            functional = spell_functional(raw["functional"])
            table[raw["source"], functional, raw["start_kind"], raw["is_dft"]] += 1
    reasons = Counter(raw["reason"] for raw in records.query({"reason": {"$ne": None}}, ["reason"]))
    names = ("source", "functional", "start_kind", "is_dft")
    return {
        "n_pairs": table.total(),
        "n_superseded": n_superseded,
        "pairs": [dict(zip(names, key, strict=True)) | {"n": n} for key, n in sorted(table.items())],
        "left_out": dict(sorted(reasons.items())),
    }


def _print_counts(counts: dict[str, Any]) -> None:
    from rich.table import Table

    if not counts["n_pairs"] and not counts["left_out"]:
        console.print_line("no pairs yet; make them with: e3relax data build, or e3relax data import PATH")
        return
    table = Table()
    for name in ("source", "functional", "start", "pairs"):
        table.add_column(name, justify="right" if name == "pairs" else "left")
    for row in counts["pairs"]:
        functional = row["functional"] if row["is_dft"] else f"{row['functional']} (not DFT)"
        table.add_row(*map(console.plain, (row["source"], functional, row["start_kind"], str(row["n"]))))
    console.out.print(table)
    console.print_line(f"{counts['n_pairs']} pairs, {counts['n_superseded']} superseded ones kept")
    for reason, n in counts["left_out"].items():
        console.print_line(f"left out, {reason}: {n}")


def _find_pair(store: Store, start: str) -> PairDoc:
    """The pair whose id begins with the given digits.

    Raises
    ------
    ConfigError
        When there is none, or more than one.
    """
    from e3relax_flows.pairs.store import find_pairs

    if (exact := find_pairs(store, [start])) or len(start) < SHORT_ID:
        ids = list(exact)
    else:
        ids = [raw["pair_id"] for raw in store.query({}, ["pair_id"]) if raw["pair_id"].startswith(start)]
    if len(ids) != 1:
        what = f"{len(ids)} pairs begin" if ids else "no pair begins"
        raise ConfigError(f"{what} with {start!r}; give an id of 16 digits, or its first {SHORT_ID} or more")
    return find_pairs(store, ids)[ids[0]]


def _print_pair(pair: PairDoc) -> None:
    from e3relax_flows.ledger.joining import measure_errors

    moved = measure_errors(pair.initial, pair.relaxed)
    free = ", ".join(name for name, is_free in pair.free.model_dump().items() if is_free) or "nothing"
    lines = {
        "pair": pair.pair_id,
        "name": pair.id,
        "formula": f"{pair.formula}, {pair.n_atoms} atoms, {pair.prototype}",
        "source": pair.source,
        "functional": " then ".join(pair.functional_path or [pair.functional]) + ("" if pair.is_dft else " (not DFT)"),
        "code": pair.code,
        "free": free,
        "start": f"{pair.start_kind}{f', by model {pair.model_id}' if pair.model_id else ''}",
        "prediction": pair.prediction_id,
        "volume": f"{pair.initial.volume:.3f} to {pair.relaxed.volume:.3f} Å^3",
        "displacement": f"{moved.displacement:.4f} Å (mean)",
        "energy": None if pair.energy is None else f"{pair.energy:.6f} eV",
        "ionic steps": pair.n_ionic_steps,
        "calculation": pair.origin_id,
        "jobs": ", ".join(pair.job_uuids),
        "folders": ", ".join(pair.dir_names),
        "superseded by": pair.superseded_by,
    }
    for name, value in lines.items():
        if value not in (None, ""):
            console.print_line(f"{name:<14} {value}")


def _print_where(text: str) -> None:
    console.err.print(text, style="dim", highlight=False, soft_wrap=True, markup=False)
