"""`e3relax candidates`: one list of structures from files, databases, stores and substitutions, without duplicates."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from e3relax_flows.cli.options import DryRunOption, JsonOption
from e3relax_flows.core.errors import ConfigError
from e3relax_flows.report import console

if TYPE_CHECKING:
    from e3relax_flows.candidates.spool import CandidateList
    from e3relax_flows.schemas.candidates import CandidatesConfig

CONFIG_ENDINGS = (".yaml", ".yml")
ENDINGS = (".jsonl", ".jsonl.gz")
MAX_ERRORS = 20


def list_candidates(
    inputs: Annotated[
        list[str],
        typer.Argument(help="Structures (files, folders), or one YAML file with `sources` like configs/screen.yaml."),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="File to write: .jsonl or .jsonl.gz.", dir_okay=False)
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="Most candidates to write, the most promising first.", min=1)
    ] = None,
    compare: Annotated[
        bool, typer.Option(help="Compare candidates of equal composition by StructureMatcher, or by id only.")
    ] = True,
    duplicates: Annotated[
        Path | None, typer.Option(help="CSV file to write: duplicates, and the kept candidates.", dir_okay=False)
    ] = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write candidates to a file that `e3relax screen` takes: no duplicates, the most promising first.

    Nothing is predicted. 100,000 candidates need little memory: they are compared on disk.
    Exit code 1 when some could not be read.
    """
    from e3relax_flows.candidates.ranking import build_score
    from e3relax_flows.candidates.sources import read_candidates
    from e3relax_flows.candidates.spool import CandidateList
    from e3relax_flows.core.settings import load_settings

    if out is None and not dry_run:
        raise ConfigError("--out FILE is needed, such as -o candidates.jsonl.gz; or --dry-run to count only")
    if out is not None and not out.name.endswith(ENDINGS):
        raise ConfigError(f"--out {out}: a list of candidates ends in {' or '.join(ENDINGS)}")
    config, settings = _load(inputs), load_settings()
    score = None if config.ranking is None else build_score(config.ranking)  # wrong files are reported before the work
    with console.hide_warnings(), CandidateList() as candidates:
        with console.make_progress() as progress:
            task = progress.add_task("reading", total=None, note="")
            for item in console.show_notes(read_candidates(config, settings)):
                candidates.add([item])
                progress.update(task, advance=1)
        if compare:
            candidates.deduplicate()
        n_scored = candidates.score(score) if score is not None else None
        n_written = 0 if out is None or dry_run else _write(candidates, out, limit)
        if duplicates is not None and not dry_run:
            _write_duplicates(candidates, duplicates)
        counts, errors = candidates.count(), candidates.errors
    _report(counts, errors, n_scored, n_written, None if dry_run else out, as_json)
    raise typer.Exit(int(bool(errors)))


def _load(inputs: list[str]) -> CandidatesConfig:
    from e3relax_flows.cli.config_files import load_candidates_config, make_config
    from e3relax_flows.schemas.candidates import CandidatesConfig

    configs = [item for item in inputs if item.endswith(CONFIG_ENDINGS)]
    if configs and len(inputs) > 1:
        raise ConfigError(f"give either structures or one configuration file, not both ({', '.join(inputs)})")
    if configs:
        return load_candidates_config(Path(configs[0]))
    return make_config(CandidatesConfig, {"inputs": inputs}, "arguments")


def _write(candidates: CandidateList, path: Path, limit: int | None) -> int:
    from monty.json import jsanitize

    n_written = 0
    with _replace(path, _open_lines) as stream:
        for candidate in candidates.iterate(limit):
            structure = jsanitize(candidate.structure.as_dict(), recursive_msonable=True)
            line = {"id": candidate.id, "structure_id": candidate.structure_id, "structure": structure}
            if candidate.score is not None:
                line["score"] = candidate.score
            stream.write(json.dumps(line, separators=(",", ":")) + "\n")
            n_written += 1
    return n_written


def _write_duplicates(candidates: CandidateList, path: Path) -> None:
    with _replace(path, lambda part: part.open("w", newline="", encoding="utf-8")) as stream:
        writer = csv.writer(stream)
        writer.writerow(["id", "kept", "how"])
        writer.writerows(candidates.iterate_duplicates())


def _open_lines(part: Path) -> TextIO:
    if ".gz" in part.suffixes:
        return gzip.open(part, "wt", encoding="utf-8", compresslevel=6)
    return part.open("w", encoding="utf-8")


@contextmanager
def _replace(path: Path, opener: Callable[[Path], TextIO]) -> Iterator[TextIO]:
    """A stream into a temporary file that is renamed to `path` at the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    with opener(part) as stream:
        yield stream
    part.replace(path)


def _report(
    counts: dict[str, int],
    errors: list[tuple[str, str]],
    n_scored: int | None,
    n_written: int,
    out: Path | None,
    as_json: bool,
) -> None:
    for name, error in errors[:MAX_ERRORS]:
        console.print_error(f"{name}: {error}")
    if len(errors) > MAX_ERRORS:
        console.print_error(f"... and {len(errors) - MAX_ERRORS} more that cannot be read")
    if as_json:
        content = counts | {"scored": n_scored, "written": n_written, "out": None if out is None else str(out)}
        typer.echo(json.dumps(content, indent=1))
        return
    left_out = f"{counts['equal_ids']} identical, {counts['equal_structures']} the same crystal"
    text = f"{counts['read']} read: {counts['candidates']} candidates, {left_out}, {counts['unreadable']} unreadable."
    if n_scored is not None:
        text += f" {n_scored} ranked."
    console.out.print(text, highlight=False, soft_wrap=True)
    if out is not None:
        console.out.print(
            f"{n_written} written; next: e3relax screen {out} --engine ...",
            highlight=False,
            soft_wrap=True,
            markup=False,
        )
