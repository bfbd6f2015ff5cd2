"""`e3relax models`: list, show, import, export, calibrate, promote, roll back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from e3relax_flows.cli.aliases import promote, roll_back, show_history
from e3relax_flows.cli.calibrate import calibrate_model
from e3relax_flows.cli.options import DryRunOption, JsonOption
from e3relax_flows.core.errors import ModelError
from e3relax_flows.report import console

if TYPE_CHECKING:
    from e3relax_flows.core.model_folders import ModelFolder
    from e3relax_flows.ledger.workspace import Workspace
    from e3relax_flows.registry.models import KnownModel
    from e3relax_flows.schemas.models import ModelDoc

models_app = typer.Typer(
    help="Models: list, show, import, export, calibrate, promote, roll back.", no_args_is_help=True
)
models_app.command("calibrate")(calibrate_model)
models_app.command("promote")(promote)
models_app.command("rollback")(roll_back)
models_app.command("history")(show_history)


@models_app.command("list")
def list_models(as_json: JsonOption = False) -> None:
    """List bundled models, registered ones, and those in folders of this machine.

    Exit code 1 when a folder is damaged.
    """
    from e3relax_flows.ledger.workspace import open_workspace
    from e3relax_flows.registry import models as registry

    with open_workspace() as workspace:
        inventory, usual = registry.list_models(workspace), workspace.settings.MODEL
    rows = [_describe(model) for model in inventory.models]
    if as_json:
        damaged = [
            {"name": path.name, "model_id": None, "path": str(path), "problem": problem}
            for path, problem in inventory.problems.items()
        ]
        typer.echo(json.dumps([*rows, *damaged], indent=1))
    else:
        _show_rows(rows)
        for problem in inventory.problems.values():
            console.print_error(problem)
        known = {word for row in rows for word in (row["name"], row["model_id"], *row["aliases"])}
        if usual not in known:
            console.out.print(console.plain(f"E3RELAX_MODEL is {usual}"), soft_wrap=True)
    raise typer.Exit(int(bool(inventory.problems)))


@models_app.command("show")
def show_model(
    model: Annotated[str, typer.Argument(help="Alias, name, id or folder of a model.")] = "default",
    as_json: JsonOption = False,
) -> None:
    """Show a model's id, origin, errors, configuration and card."""
    from e3relax_flows.core.model_folders import CARD_FILE
    from e3relax_flows.registry.models import locate_model

    known = locate_model(model)
    doc, folder = known.doc, known.folder
    config: dict[str, Any] = doc.config if doc else folder.config if folder else {}
    if as_json:
        content = {
            "name": known.name,
            "model_id": known.model_id,
            "path": str(folder.path) if folder else None,
            "config": config,
            "registered": doc.model_dump(mode="json", exclude={"config", "card"}) if doc else None,
        }
        typer.echo(json.dumps(content, indent=1))
        return
    from rich.markdown import Markdown
    from rich.pretty import Pretty

    place = f", {folder.path}" if folder else ""
    console.out.print(console.plain(f"{known.name}, model id {known.model_id}{place}"), soft_wrap=True)
    if doc:
        _show_origin(doc)
        _show_gates(doc.model_id)
    file = folder.path / CARD_FILE if folder else None
    card = doc.card if doc else file.read_text(encoding="utf-8") if file and file.exists() else ""
    console.out.print(Markdown(card) if card else "no card")
    console.out.print(Pretty(config, max_length=20))


@models_app.command("import")
def import_model(
    source: Annotated[Path, typer.Argument(help="A model folder, or a checkpoint of the authors' E3Relax-H2 code.")],
    name: Annotated[str | None, typer.Option(help="Name of the model; otherwise that of the folder or file.")] = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Register a model after verifying its files, so that it can be named and promoted everywhere.

    The EMA weights of a checkpoint of the authors' code are used. Importing a model again replaces damaged files.
    """
    from tempfile import TemporaryDirectory

    from e3relax_flows.ledger.workspace import open_workspace
    from e3relax_flows.registry.location import find_models_dir
    from e3relax_flows.registry.models import register_model

    with open_workspace() as workspace, TemporaryDirectory() as scratch:
        folder = _read_source(source, name, Path(scratch) if dry_run else find_models_dir(workspace.settings))
        name = name or folder.name
        _check_new_name(name, folder.model_id, workspace)
        if not dry_run:
            name = register_model(folder, workspace, name=name).name
    if as_json:
        typer.echo(json.dumps({"name": name, "model_id": folder.model_id, "registered": not dry_run}, indent=1))
        return
    done = "would be registered" if dry_run else "registered"
    console.out.print(console.plain(f"{name}, model id {folder.model_id}: {done}"), soft_wrap=True)
    if not dry_run:
        console.out.print(console.plain(f"use it with: e3relax predict --model {name} ..."), soft_wrap=True)


@models_app.command("export")
def export_model(
    model: Annotated[str, typer.Argument(help="Alias, name, id or folder of a model.")],
    folder: Annotated[Path, typer.Argument(help="Folder to make; its name becomes the model's.")],
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write a model as a folder after verifying its files, to copy it elsewhere."""
    from e3relax_flows.core.model_folders import (
        CARD_FILE,
        CONFIG_FILE,
        WEIGHTS_FILE,
        read_model_folder,
        write_model_folder,
    )
    from e3relax_flows.registry.models import resolve_model
    from e3relax_flows.registry.weights import read_weights

    found = resolve_model(model)
    paths = [found.path / CONFIG_FILE, found.path / CARD_FILE]
    files = {path.name: path.read_bytes() for path in paths if path.exists()} | {WEIGHTS_FILE: read_weights(found)}
    if folder.exists() and (not folder.is_dir() or read_model_folder(folder).model_id != found.model_id):
        raise ModelError(f"{folder} exists and is another model; name a folder that does not exist")
    if not dry_run and not folder.exists():
        write_model_folder(folder, files)
    content = {"name": found.name, "model_id": found.model_id, "path": str(folder.absolute()), "written": not dry_run}
    if as_json:
        typer.echo(json.dumps(content, indent=1))
        return
    done = "would be written to" if dry_run else "is in"
    console.out.print(
        console.plain(f"{found.name}, model id {found.model_id}, {done} {folder.absolute()}"), soft_wrap=True
    )


def _read_source(source: Path, name: str | None, models_dir: Path) -> ModelFolder:
    """The model of a folder or checkpoint, checked by building its network; a checkpoint becomes a folder."""
    if not source.exists():
        raise ModelError(f"{source} is not a file; give a model folder or a checkpoint (.pt) of the authors' code")
    from e3relax_flows.core.model_folders import read_model_folder
    from e3relax_flows.model.files import import_checkpoint, load_network

    if source.is_file():
        return import_checkpoint(source, models_dir, name)
    folder = read_model_folder(source)
    load_network(folder)
    return folder


def _check_new_name(name: str, model_id: str, workspace: Workspace) -> None:
    """Refuse a used name; retrainings may share one."""
    from e3relax_flows.registry.store import find_model_docs

    others = [doc.model_id for doc in find_model_docs({"name": name}, workspace) if doc.model_id != model_id]
    if others:
        raise ModelError(f"{name!r} is the name of {', '.join(others)}; give another one, e.g. --name {name}-2")


def _describe(model: KnownModel) -> dict[str, Any]:
    doc, folder = model.doc, model.folder
    n_bytes = _measure_folder(folder.path) if folder else doc.n_bytes if doc else 0
    return {
        "name": model.name,
        "model_id": model.model_id,
        "aliases": model.aliases,
        "kind": folder.config.get("kind") if folder else doc.kind if doc else None,
        "functionals": folder.functionals if folder else doc.config.get("functionals", []) if doc else [],
        "mebibytes": round(n_bytes / 2**20, 2),
        "path": str(folder.path) if folder else None,
        "bundled": model.is_bundled,
        "registered": doc is not None,
        "parent_id": doc.parent_id if doc else None,
        "dataset_id": doc.dataset_id if doc else None,
        "created_at": doc.created_at.isoformat() if doc else None,
    }


def _show_rows(rows: list[dict[str, Any]]) -> None:
    from rich.table import Table

    table = Table()
    for column in ("name", "model id", "kind", "functionals", "MiB", "known as", "folder"):
        table.add_column(column, justify="right" if column == "MiB" else "left", overflow="fold")
    for row in rows:
        aliases = f" ({', '.join(row['aliases'])})" if row["aliases"] else ""
        kinds = [word for word in ("bundled", "registered") if row[word]] or ["not registered"]
        cells = [
            f"{row['name']}{aliases}",
            row["model_id"],
            str(row["kind"]),
            ", ".join(row["functionals"]),
            str(row["mebibytes"]),
        ]
        table.add_row(*map(console.plain, [*cells, ", ".join(kinds), row["path"] or "fetched when it is needed"]))
    console.out.print(table)


def _show_origin(doc: ModelDoc) -> None:
    """Fields of a model in the registry besides its configuration."""
    hours = f", {doc.training_hours:.2f} h" if doc.training_hours is not None else ""
    lines = [f"registered {doc.created_at:%Y-%m-%d %H:%M} UTC{hours}"]
    origins = {"parent": doc.parent_id, "dataset": doc.dataset_id, "training run": doc.run_id}
    lines += [f"{what} {value}" for what, value in origins.items() if value]
    for source, errors in doc.metrics.items():
        lines.append(f"{source}: " + ", ".join(f"{metric} {value:.4g}" for metric, value in errors.items()))
    console.out.print(console.plain("\n".join(lines)), soft_wrap=True)


def _show_gates(model_id: str) -> None:
    """Decisions of gates on a model, with their reasons, the oldest first."""
    from e3relax_flows.ledger.workspace import open_workspace
    from e3relax_flows.registry.judgements import find_gates, has_judgements, match_challenger, open_judgements

    with open_workspace() as workspace:
        gates = []
        if has_judgements(workspace.settings):
            gates = find_gates(workspace.get(open_judgements), match_challenger(model_id))
    for gate in gates:
        lines = [f"gate {gate.gate_id}, {gate.created_at:%Y-%m-%d}, against {gate.incumbent_id}: {gate.decision}"]
        lines += [f"  {reason}" for reason in gate.reasons]
        console.out.print(console.plain("\n".join(lines)), soft_wrap=True)


def _measure_folder(path: Path) -> int:
    return sum(file.stat().st_size for file in path.iterdir() if file.is_file())
