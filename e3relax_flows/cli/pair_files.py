"""`e3relax data import` and `data export`: pairs from files and folders of VASP runs, and pairs as files."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from e3relax_flows.cli.groups import spread
from e3relax_flows.cli.pairs import DryOption, JsonOption, SourceOption, report_left_out
from e3relax_flows.core.errors import ConfigError
from e3relax_flows.report import console

if TYPE_CHECKING:
    from e3relax_flows.pairs.files import Stated
    from e3relax_flows.pairs.imports import FolderRun
    from e3relax_flows.pairs.prediction_index import PredictionIndex
    from e3relax_flows.pairs.tasks import BuiltPair
    from e3relax_flows.schemas.datasets import PairFilter

WRITE_AT_ONCE = 200
ADVICE = (
    "give folders of VASP runs (vasprun.xml), trajectories (.extxyz, .traj), pairs (.jsonl, .jsonl.gz) or "
    "pymatgen JSON (.json)"
)


def import_pairs(
    paths: Annotated[list[Path], typer.Argument(help="Folders of VASP runs, trajectories, pair files, pymatgen JSON.")],
    functional: Annotated[
        str | None, typer.Option(help="Functional of the relaxed structures, if the files do not state it.")
    ] = None,
    source: SourceOption = None,
    not_dft: Annotated[bool, typer.Option("--not-dft", help="A potential relaxed them; name it.")] = False,
    converged: Annotated[
        bool, typer.Option("--converged", help="Trajectories without forces or stress have converged.")
    ] = False,
    dry_run: DryOption = False,
    as_json: JsonOption = False,
) -> None:
    """Import existing pairs; each entry that cannot be imported is one line with the reason."""
    from e3relax_flows.ledger.store import open_prediction_store
    from e3relax_flows.pairs.files import Stated
    from e3relax_flows.pairs.prediction_index import PredictionIndex
    from e3relax_flows.pairs.store import CURRENT, PairWriter, open_pair_stores

    refused = []
    stated = Stated(functional, is_dft=not not_dft, converged=converged)
    with open_prediction_store() as predictions, open_pair_stores() as stores:
        writer, index = PairWriter(stores, dry_run), PredictionIndex(predictions)
        batch: list[BuiltPair] = []
        with console.make_progress() as progress, console.hide_warnings():
            task = progress.add_task("Importing", total=None, note="")
            for path in paths:
                for item in _read_path(path.expanduser().absolute(), stated, index, source):
                    batch.append(item)
                    refused += _list_refused([item])
                    if len(batch) >= WRITE_AT_ONCE:
                        writer.write(batch)
                        progress.update(task, advance=len(batch))
                        batch = []
            writer.write(batch)
        n_pairs = stores.pairs.count(CURRENT)
    for line in refused:
        console.err.print(console.plain(line), soft_wrap=True)
    _report(writer.counts, n_pairs, dry_run, as_json)
    if refused:
        raise typer.Exit(1)


@dataclass(frozen=True)
class ExportGroup:
    """Which pairs are written."""

    functional: Annotated[list[str] | None, typer.Option("--functional", help="Functional; repeatable.")] = None
    source: Annotated[list[str] | None, typer.Option("--source", help="Source; repeatable.")] = None
    start: Annotated[
        list[str] | None, typer.Option("--start", help="raw, predicted or control; repeatable.", metavar="START")
    ] = None
    dft_only: Annotated[bool, typer.Option("--dft-only", help="Leave out relaxations by potentials.")] = False
    fully_free: Annotated[bool, typer.Option("--fully-free", help="Leave out those with cell or sites held.")] = False
    max_atoms: Annotated[int | None, typer.Option(help="Largest number of atoms.", min=1)] = None

    def build(self) -> PairFilter:
        """The filter.

        Raises
        ------
        ConfigError
            When a start is unknown.
        """
        from e3relax_flows.schemas.datasets import PairFilter
        from e3relax_flows.schemas.pairs import PairStart

        kinds = [kind.value for kind in PairStart]
        if unknown := sorted(set(self.start or ()) - set(kinds)):
            raise ConfigError(f"--start {unknown[0]!r} is unknown; known: {', '.join(kinds)}")
        return PairFilter(
            functionals=self.functional or None,
            sources=self.source or None,
            start_kinds=[PairStart(kind) for kind in self.start] if self.start else None,
            dft_only=self.dft_only,
            full_freedom=self.fully_free,
            max_atoms=self.max_atoms,
        )


@spread
def export_pairs(
    file: Annotated[Path, typer.Argument(help="File to write: .jsonl or .jsonl.gz.", dir_okay=False)],
    wanted: ExportGroup,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count what would be written, and write nothing.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write pairs as lines of JSON, which training, `data import` and `evaluate` read."""
    from e3relax_flows.pairs.datasets import explain_leaving_out
    from e3relax_flows.pairs.files import write_pair_file
    from e3relax_flows.pairs.store import iter_pairs, open_pair_store

    if not file.name.endswith((".jsonl", ".jsonl.gz")):
        raise ConfigError(f"{file}: the name of a pair file ends in .jsonl or .jsonl.gz")
    filter = wanted.build()
    with open_pair_store() as store:
        reasons: Counter[str | None] = Counter()
        pairs = (pair for pair in iter_pairs(store) if not _note(explain_leaving_out(pair, filter), reasons))
        shown = console.follow(pairs, "reading pairs" if dry_run else "writing pairs")
        n_pairs = sum(1 for _ in shown) if dry_run else write_pair_file(file, shown)
    if n_wrong := reasons["not_finite"]:
        note = f"{n_wrong} pairs with numbers that are not finite are left out; see: e3relax data check"
        console.err.print(console.plain(note), soft_wrap=True)
    if as_json:
        typer.echo(json.dumps({"n_pairs": n_pairs, "file": str(file.absolute()), "written": not dry_run}, indent=1))
        return
    would = " would be written to" if dry_run else ":"
    console.out.print(console.plain(f"{n_pairs} pairs{would} {file}"), soft_wrap=True)


def _note(reason: str | None, counts: Counter[str | None]) -> str | None:
    """The reason, counted."""
    counts[reason] += 1
    return reason


def _read_path(path: Path, stated: Stated, index: PredictionIndex, source: str | None) -> Iterator[BuiltPair]:
    """Pairs of a file or folder: VASP runs first, then files."""
    from e3relax_flows.pairs.files import ENDINGS
    from e3relax_flows.pairs.imports import import_folders

    if not path.is_dir():
        yield from _read_file(path, stated, index, source)
        return
    runs = list(read_runs(path, stated))
    for built in import_folders(path, runs, index, source):
        yield from built
    inside = {run.folder for run in runs}
    files = [
        file
        for file in sorted(path.rglob("*"))
        if file.name.lower().endswith(ENDINGS) and file.is_file() and file.parent not in inside
    ]
    for file in files:
        yield from _read_file(file, stated, index, source)
    if not runs and not files:
        yield from _read_file(path, stated, index, source)


def _read_file(path: Path, stated: Stated, index: PredictionIndex, source: str | None) -> Iterator[BuiltPair]:
    from e3relax_flows.pairs.files import ENDINGS, FilePair, read_pair_file
    from e3relax_flows.pairs.imports import import_pair
    from e3relax_flows.schemas.pairs import LeftOut

    if path.is_file() and path.name.lower().endswith(ENDINGS):
        for item in read_pair_file(path, stated):
            yield import_pair(item, index, source)
        return
    what = "nothing to import in it" if path.exists() else "there is no such file or folder"
    item = FilePair(str(path), {}, reason=LeftOut.UNREADABLE, message=f"{path}: {what}; {ADVICE}")
    yield import_pair(item, index, source)


def read_runs(root: Path, stated: Stated) -> Iterator[FolderRun]:
    """VASP runs below a folder, one after another."""
    from e3relax_flows.core.errors import EngineError
    from e3relax_flows.engines.vasp_folders import find_vasp_folders, read_vasp_folder
    from e3relax_flows.pairs.imports import FolderRun, restate

    for folder in find_vasp_folders(root):
        try:
            result = read_vasp_folder(folder)
        except EngineError as error:
            yield FolderRun(folder, error=error)
            continue
        except Exception as error:  # the boundary between folders: parsers raise various errors on bad input
            yield FolderRun(folder, error=EngineError(f"{folder} cannot be read ({type(error).__name__}: {error})"))
            continue
        if result is not None and stated.functional:
            result = restate(result, stated.functional)
        yield FolderRun(folder, result)


def _list_refused(built: list[BuiltPair]) -> list[str]:
    """One line for each entry that gave no pair."""
    records = [item.record for item in built if item.record.reason is not None]
    return [f"{record.reason}: {_place(record.origin_id, record.message or '')}" for record in records]


def _place(origin: str, message: str) -> str:
    return message if message.startswith(origin) else f"{origin}: {message}"


def _report(counts: Counter[str], n_pairs: int, dry_run: bool, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({"counts": dict(counts), "n_pairs": n_pairs, "dry_run": dry_run}, indent=1))
        return
    made = f"{'would be ' if dry_run else ''}{counts['new']} new, {counts['unchanged']} unchanged"
    replaced = f"{counts['replaced']} replaced" if counts["replaced"] else ""
    parts = (made, replaced, report_left_out(counts), f"{n_pairs} pairs in the store")
    console.out.print(console.plain("; ".join(part for part in parts if part)), soft_wrap=True)
