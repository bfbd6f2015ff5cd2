"""`e3relax models promote`, `rollback` and `history`: move an alias, and show its history."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from e3relax_flows.cli.options import DryRunOption, JsonOption
from e3relax_flows.report import console

if TYPE_CHECKING:
    from e3relax_flows.ledger.workspace import Workspace
    from e3relax_flows.schemas.models import AliasDoc

AliasOption = Annotated[str, typer.Option("--alias", help="The alias.", metavar="NAME")]
ReasonOption = Annotated[str, typer.Option("--reason", help="Why, for the history.", metavar="TEXT")]


def promote(
    model: Annotated[str, typer.Argument(help="Name, id or alias of a registered or bundled model.")],
    reason: ReasonOption,
    alias: AliasOption = "default",
    force: Annotated[bool, typer.Option("--force", help="Promote even if the gate did not allow it.")] = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Move an alias to another model.

    A gate that has compared it with the model in service is respected; where
    none has, you decide.
    """
    from e3relax_flows.ledger.workspace import open_workspace
    from e3relax_flows.registry import aliases as promotion
    from e3relax_flows.registry.models import locate_model

    with open_workspace() as workspace:
        model_id = locate_model(model, workspace).model_id
        document, is_move = promotion.plan_promotion(alias, model_id, reason, None, None, workspace)
        note = None
        if is_move:
            gate_id, note = _ask_gate(model_id, document.history[-1].previous_id, force, workspace)
            # the version that was read: a move of the alias in between is not overruled
            version = document.version - 1 if document.version > 1 else promotion.NEVER_MOVED
            change = (alias, model_id, reason, gate_id, version, workspace)
            document = promotion.plan_promotion(*change)[0] if dry_run else promotion.promote(*change)
    _report(document, is_move, dry_run, as_json)
    if note and not as_json:
        console.err.print(console.plain(note), style="yellow", soft_wrap=True)


def _ask_gate(
    model_id: str, incumbent_id: str | None, force: bool, workspace: Workspace
) -> tuple[str | None, str | None]:
    """Id of the last gate that compared both models, and a message."""
    from e3relax_flows.core.errors import ModelError
    from e3relax_flows.registry.judgements import find_gates, has_judgements, match_challenger, open_judgements
    from e3relax_flows.schemas.models import Decision

    gates = []
    if has_judgements(workspace.settings):
        judged = match_challenger(model_id) | {"incumbent_id": incumbent_id}
        gates = find_gates(workspace.get(open_judgements), judged)
    if not gates:
        return None, "No gate has compared it with the previous model: you decide."
    gate = gates[-1]
    if gate.decision == Decision.PROMOTE:
        return gate.gate_id, None
    why = f"gate {gate.gate_id} decided {gate.decision}: {'; '.join(gate.reasons)}"
    if not force:
        raise ModelError(f"{why}; promote it nevertheless with --force")
    return gate.gate_id, f"Promoted although {why}"


def roll_back(
    reason: ReasonOption,
    alias: AliasOption = "default",
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Move an alias back to the model before its last promotion; a repetition goes further back."""
    from e3relax_flows.registry import aliases as promotion

    document = promotion.plan_rollback(alias, reason, None) if dry_run else promotion.rollback(alias, reason)
    _report(document, True, dry_run, as_json)


def show_history(alias: AliasOption = "default", as_json: JsonOption = False) -> None:
    """Show the moves of an alias, oldest first."""
    from e3relax_flows.core.errors import ModelError
    from e3relax_flows.core.model_folders import ALIASES, find_model
    from e3relax_flows.ledger.workspace import open_workspace
    from e3relax_flows.registry.store import find_alias, list_aliases
    from e3relax_flows.schemas.models import AliasDoc

    with open_workspace() as workspace:
        document = find_alias(alias, workspace)
        known = sorted({*ALIASES, *(doc.name for doc in list_aliases(workspace))})
    if document is None and alias not in known:
        raise ModelError(f"{alias!r} is not an alias; known: {', '.join(known)}")
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
