"""`e3relax data`: pairs to train on."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from e3relax_flows.cli.options import JsonOption
from e3relax_flows.cli.pair_check import check_pairs
from e3relax_flows.cli.pair_files import export_pairs, import_pairs
from e3relax_flows.cli.pairs import build_pairs, show_pairs
from e3relax_flows.core.errors import ConfigError
from e3relax_flows.report.console import make_progress, out

data_app = typer.Typer(help="Pairs to train on: build, import, export, show, check, freeze.", no_args_is_help=True)

data_app.command("build")(build_pairs)
data_app.command("import")(import_pairs)
data_app.command("export")(export_pairs)
data_app.command("show")(show_pairs)
data_app.command("check")(check_pairs)


@data_app.command("shards")
def write_pair_shards(
    pairs: Annotated[list[Path], typer.Argument(help="Pair files: .jsonl, .jsonl.gz, shards, folders of shards.")],
    folder: Annotated[Path, typer.Option("--out", "-o", help="Folder to write the shards into.", file_okay=False)],
    size: Annotated[int, typer.Option(help="Pairs in a shard.", min=1)] = 10_000,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Read the pairs, and write nothing.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write pairs as tensors, which a training node reads quickly and without pymatgen, with all bits."""
    from e3relax_flows.train.dataset import load_pairs
    from e3relax_flows.train.pairs import identify_pairs
    from e3relax_flows.train.shards import write_shards

    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file; give a folder with --out")
    with make_progress() as progress:
        task = progress.add_task("reading pairs", total=None, note="")
        content = load_pairs(pairs, lambda n: progress.update(task, advance=n))
    n_shards = -(-len(content) // size) if dry_run else len(write_shards(content, folder, size))
    functionals = dict(sorted(Counter(content.functionals).items()))
    if as_json:
        facts = {"n_pairs": len(content), "functionals": functionals, "hash": identify_pairs(content)}
        place = {"n_shards": n_shards, "folder": str(folder.absolute()), "written": not dry_run}
        typer.echo(json.dumps(facts | place, indent=1))
        return
    counts = ", ".join(f"{name}: {count}" for name, count in functionals.items())
    done = "would be written into" if dry_run else "are in"
    out.print(
        f"{len(content)} pairs ({counts}), hash {identify_pairs(content)}, {done} {n_shards} shards: {folder}",
        soft_wrap=True,
        markup=False,
        highlight=False,
    )
