"""`e3relax models promote`, `rollback` and `history`: move an alias, and say who meant what when."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from e3relax_flows.cli import console
from e3relax_flows.cli.options import DryRunOption, JsonOption

if TYPE_CHECKING:
    from e3relax_flows.schemas.models import AliasDoc

AliasOption = Annotated[str, typer.Option("--alias", help="The alias.", metavar="NAME")]
ReasonOption = Annotated[str, typer.Option("--reason", help="Why, for the history.", metavar="TEXT")]


def promote(
    model: Annotated[str, typer.Argument(help="Name, id or alias of a registered or bundled model.")],
    reason: ReasonOption,
    alias: AliasOption = "default",
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Let an alias mean another model from now on, on a person's word.

    `e3relax retrain` promotes what its gate lets pass; here no gate is asked.
    """
    from e3relax_flows.core.settings import load_settings
    from e3relax_flows.data import promotion
    from e3relax_flows.data.registry import locate_model

    settings = load_settings()
    model_id = locate_model(model, settings).model_id
    document, is_move = promotion.plan_promotion(alias, model_id, reason, None, None, settings)
    if is_move and not dry_run:
        # the version that was looked at: whoever moves the alias in between is not overruled
        expected = document.version - 1 if document.version > 1 else promotion.NEVER_MOVED
        document = promotion.promote(alias, model_id, reason, expected=expected, settings=settings)
    _report(document, is_move, dry_run, as_json)
    if is_move and not as_json:
        console.err.print("No gate has compared it with the model before: this is on your word.", style="yellow")


def roll_back(
    reason: ReasonOption,
    alias: AliasOption = "default",
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Let an alias mean what it meant before its last promotion; once again goes further back."""
    from e3relax_flows.core.settings import load_settings
    from e3relax_flows.data import promotion

    settings = load_settings()
    document = (promotion.plan_rollback if dry_run else promotion.rollback)(alias, reason, settings)
    _report(document, True, dry_run, as_json)


def show_history(alias: AliasOption = "default", as_json: JsonOption = False) -> None:
    """Show the moves of an alias, oldest first."""
    from e3relax_flows.core.errors import ModelError
    from e3relax_flows.core.modelfolders import ALIASES, find_model
    from e3relax_flows.core.settings import load_settings
    from e3relax_flows.data.registrystores import find_alias, list_aliases
    from e3relax_flows.schemas.models import AliasDoc

    settings = load_settings()
    document = find_alias(alias, settings)
    if document is None and alias not in ALIASES:
        known = sorted({*ALIASES, *(doc.name for doc in list_aliases(settings))})
        raise ModelError(f"{alias!r} is no alias; known: {', '.join(known)}")
    if as_json:
        shown = document or AliasDoc(name=alias, model_id=find_model(alias).model_id)
        typer.echo(shown.model_dump_json(indent=1))
    elif document is None:
        folder = find_model(alias)
        console.out.print(
            console.plain(f"{alias} was never moved; it means the bundled {folder.name} ({folder.model_id})")
        )
    else:
        _show_moves(document)


def _report(document: AliasDoc, is_move: bool, dry_run: bool, as_json: bool) -> None:
    if as_json:
        content = {**document.model_dump(mode="json"), "moved": is_move and not dry_run}
        typer.echo(json.dumps(content, indent=1))
        return
    move = document.history[-1]
    if not is_move:
        text = f"{document.name} means {document.model_id} already; nothing was moved"
    else:
        verb = "would move" if dry_run else "moved"
        text = f"{document.name} {verb}: {move.previous_id or 'nothing'} → {move.model_id}, version {document.version}"
    console.out.print(console.plain(text), soft_wrap=True)


def _show_moves(document: AliasDoc) -> None:
    from rich.table import Table

    table = Table(title=f"{document.name} means {document.model_id}", title_justify="left")
    for column in ("version", "moved at, UTC", "what", "model id", "before", "gate", "reason"):
        table.add_column(column, justify="right" if column == "version" else "left", overflow="fold")
    for version, move in enumerate(document.history, start=1):
        cells = [
            str(version),
            f"{move.moved_at:%Y-%m-%d %H:%M:%S}",
            "rollback" if move.rollback else "promotion",
            move.model_id,
            move.previous_id or "–",
            move.gate_id or "–",
            move.reason,
        ]
        table.add_row(*map(console.plain, cells))
    console.out.print(table)
