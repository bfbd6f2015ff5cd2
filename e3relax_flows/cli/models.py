"""`e3relax models`: list, show and import model folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from e3relax_flows.cli import console
from e3relax_flows.core.errors import ModelError

models_app = typer.Typer(help="Models: list, show, import.", no_args_is_help=True)


@models_app.command("list")
def list_models(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout and nothing else.")] = False,
) -> None:
    """List the bundled models and those that were imported."""
    from rich.table import Table

    from e3relax_flows.core.modelfolders import ALIASES, list_model_folders
    from e3relax_flows.core.settings import load_settings

    settings = load_settings()
    folders = list_model_folders(settings.DATA_DIR / "models")
    rows: list[dict[str, Any]] = [
        {
            "name": folder.name,
            "model_id": folder.model_id,
            "aliases": sorted(alias for alias, name in ALIASES.items() if name == folder.name),
            "kind": folder.config.get("kind"),
            "mebibytes": round(_measure_folder(folder.path) / 2**20, 2),
            "path": str(folder.path),
        }
        for folder in folders
    ]
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    table = Table()
    for column in ("name", "model id", "kind", "MiB", "folder"):
        table.add_column(column, justify="right" if column == "MiB" else "left", overflow="fold")
    for row in rows:
        aliases = f" ({', '.join(row['aliases'])})" if row["aliases"] else ""
        cells = [f"{row['name']}{aliases}", row["model_id"], str(row["kind"]), str(row["mebibytes"]), row["path"]]
        table.add_row(*map(console.plain, cells))
    console.out.print(table)
    if settings.MODEL not in ("default", *(name for row in rows for name in (row["name"], row["model_id"]))):
        console.out.print(f"E3RELAX_MODEL is {settings.MODEL}", highlight=False, soft_wrap=True)


@models_app.command("show")
def show_model(
    model: Annotated[str, typer.Argument(help="Alias, name, id or folder of a model.")] = "default",
    as_json: Annotated[bool, typer.Option("--json", help="Print the configuration as JSON and nothing else.")] = False,
) -> None:
    """Show a model's id, configuration and card."""
    from e3relax_flows.core.modelfolders import CARD_FILE, find_model
    from e3relax_flows.core.settings import load_settings

    folder = find_model(model, load_settings().DATA_DIR / "models")
    content = {"name": folder.name, "model_id": folder.model_id, "path": str(folder.path), "config": folder.config}
    if as_json:
        typer.echo(json.dumps(content, indent=1))
        return
    from rich.markdown import Markdown
    from rich.pretty import Pretty

    console.out.print(f"{folder.name}, model id {folder.model_id}, {folder.path}", highlight=False, soft_wrap=True)
    card = folder.path / CARD_FILE
    console.out.print(Markdown(card.read_text(encoding="utf-8")) if card.exists() else "no card")
    console.out.print(Pretty(folder.config, max_length=20))


@models_app.command("import")
def import_model(
    file: Annotated[Path, typer.Argument(help="A checkpoint of the authors' E3Relax-H2 code.")],
    name: Annotated[str | None, typer.Option(help="Name of the model; otherwise that of the file.")] = None,
) -> None:
    """Turn a checkpoint of the authors' code into a model folder, with its EMA weights."""
    from e3relax_flows.core.settings import load_settings

    if not file.is_file():
        raise ModelError(f"{file} is no file; give a checkpoint (.pt) of the authors' code")
    from e3relax_flows.model.files import import_checkpoint

    folder = import_checkpoint(file, load_settings().DATA_DIR / "models", name)
    console.out.print(f"{folder.name}, model id {folder.model_id}: {folder.path}", highlight=False, soft_wrap=True)
    console.out.print(f"use it with: e3relax predict --model {folder.name} ...", highlight=False)


def _measure_folder(path: Path) -> int:
    return sum(file.stat().st_size for file in path.iterdir() if file.is_file())
