"""`e3relax report`: pages of screens, campaigns and models, each one HTML file that opens from disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from e3relax_flows.cli.options import DryRunOption, JsonOption
from e3relax_flows.report import console

report_app = typer.Typer(
    help="Write a screen, a campaign or a model as one HTML file that needs no network.", no_args_is_help=True
)
PageOption = Annotated[Path, typer.Option("--out", "-o", help="HTML file to write.", metavar="FILE.html")]


@report_app.command("screen")
def report_screen(
    screen: Annotated[str, typer.Argument(help="Id or name of a screen, its screen.json, or the folder of that.")],
    out: PageOption,
    entries: Annotated[
        str | None,
        typer.Option(help="Rank by energy above the hull of these: pymatgen's entries, or mp.", metavar="FILE|mp"),
    ] = None,
    correction: Annotated[
        str | None,
        typer.Option(help="How energies are compared, as for `e3relax table`.", metavar="mp2020|none"),
    ] = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Show the funnel, the savings, the errors, and every candidate with its structures in 3D."""
    from dataclasses import replace

    from e3relax_flows.ledger.savings import summarize_savings
    from e3relax_flows.ledger.workspace import open_workspace
    from e3relax_flows.report.collecting import collect_screen
    from e3relax_flows.report.html import render_screen_page
    from e3relax_flows.report.tables import build_table, describe_savings
    from e3relax_flows.schemas.predictions import Verdict
    from e3relax_flows.screening.store import read_screen

    with open_workspace() as workspace, console.hide_warnings(), console.make_progress() as progress:
        document = read_screen(screen, workspace)
        task = progress.add_task("reading documents", total=None, note="")
        documents = collect_screen(
            document, workspace, lambda done, total: progress.update(task, completed=done, total=total)
        )
        if entries is not None or correction is not None:
            from e3relax_flows.report.ranked import rank_screen

            ranked = rank_screen(document, documents.outcomes, entries, correction, workspace.settings)
            documents = replace(documents, ranked=ranked)
        progress.update(task, description="writing the page", total=None)
        table = build_table(document, documents.predictions.values(), documents.outcomes.values())
        text = render_screen_page(
            document, table, describe_savings(summarize_savings(documents.outcomes.values())), documents
        )
    n_missing = sum(
        row.prediction_id not in documents.predictions
        for row in document.candidates
        if row.prediction_id and row.verdict != Verdict.ERROR  # without a stored prediction
    )
    if n_missing:
        console.print_error(
            f"{n_missing} of {len(document.candidates)} predictions are not in the store, and have no structures "
            "and no errors on the page; `e3relax doctor` shows which store was read"
        )
    _write(
        out, text, {"kind": "screen", "candidates": len(document.candidates), "missing": n_missing}, dry_run, as_json
    )
    raise typer.Exit(int(bool(n_missing)))


@report_app.command("model")
def report_model(
    model: Annotated[str, typer.Argument(help="Alias, name, id or folder of a model.")],
    out: PageOption,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Show a model's card, its errors by source and chemistry, its calibration and the decisions of gates."""
    from e3relax_flows.ledger.workspace import open_workspace
    from e3relax_flows.report.collecting import collect_model
    from e3relax_flows.report.html import render_model_page

    with open_workspace() as workspace, console.hide_warnings():
        documents = collect_model(model, workspace)
    facts = {
        "kind": "model",
        "model_id": documents.model_id,
        "evaluations": len(documents.evaluations),
        "gates": len(documents.gates),
        "relaxations": len(documents.trust),
    }
    _write(out, render_model_page(documents), facts, dry_run, as_json)


@report_app.command("campaign")
def report_campaign(
    campaign: Annotated[str, typer.Argument(help="Id of a campaign, the first digits of it, or its name.")],
    out: PageOption,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Show the learning curve of a campaign with initial structures and random arm, its gates and its cost."""
    from e3relax_flows.campaigns.store import find_campaign, load_generations, open_campaign_stores
    from e3relax_flows.ledger.workspace import open_workspace
    from e3relax_flows.report.collecting import find_gates_by_id
    from e3relax_flows.report.html import render_campaign_page

    with open_workspace() as workspace:
        stores = workspace.get(open_campaign_stores)
        found = find_campaign(stores, campaign)
        generations = load_generations(stores, found.campaign_id)
        gate_ids = [one.retrain.gate_id for one in generations if one.retrain and one.retrain.gate_id]
        gates = find_gates_by_id(gate_ids, workspace)
    text = render_campaign_page(found, generations, gates)
    facts = {"kind": "campaign", "campaign_id": found.campaign_id, "generations": len(generations)}
    _write(out, text, facts, dry_run, as_json)


def _write(out: Path, text: str, facts: dict[str, Any], dry_run: bool, as_json: bool) -> None:
    """Write a page and print its path."""
    from e3relax_flows.report.pages import check_page_path, write_page

    check_page_path(out)
    path = out.absolute() if dry_run else write_page(out, text)
    megabytes = len(text.encode()) / 1e6
    if as_json:
        typer.echo(json.dumps({**facts, "page": str(path), "megabytes": round(megabytes, 2), "written": not dry_run}))
        return
    done = "would be written to" if dry_run else "is in"
    console.out.print(console.plain(f"The page ({megabytes:.1f} MB) {done} {path}"), soft_wrap=True)
