"""`e3relax retrain`: from the pairs in the store to a new model and the decision of the gate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from e3relax_flows.report.console import out


def retrain(
    config: Annotated[Path, typer.Argument(help="YAML file; configs/retrain.yaml shows the keys.")],
    submit: Annotated[str, typer.Option(help="Where the jobs run.", metavar="local|fireworks|remote")] = "local",
    incumbent: Annotated[
        str | None, typer.Option(help="Model in service: alias, name or id; none: the model of the alias.")
    ] = None,
    folder: Annotated[Path, typer.Option("--out", "-o", help="Folder of the jobs' own folders.")] = Path(
        "runs/retrain"
    ),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Report what would be done, and store nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout and nothing else.")] = False,
) -> None:
    """Train on the pairs in the store, compare with the model in service on a frozen holdout, promote a better model.

    Run again after an interruption: the same pairs and configuration are the same training, which continues.
    Exit code 1 if the challenger was not promoted.
    """
    from e3relax_flows.cli.config_files import load_retrain_config
    from e3relax_flows.ledger.workspace import open_workspace
    from e3relax_flows.places.kinds import find_kind
    from e3relax_flows.report.terminal import show_retraining
    from e3relax_flows.retraining.maker import RetrainMaker
    from e3relax_flows.retraining.run import plan_retraining, run_retraining

    with open_workspace() as workspace:
        content = load_retrain_config(config)
        if dry_run:
            plan = plan_retraining(content, incumbent, submit, workspace)
            typer.echo(json.dumps(plan, indent=1)) if as_json else _print_plan(plan)
            return
        flow = RetrainMaker(config=content).make(incumbent)
        if not find_kind(submit).is_here:
            from e3relax_flows.cli.submission import submit_shown
            from e3relax_flows.retraining.training import plan_snapshot

            plan_snapshot(content, incumbent, workspace)  # all requirements are met, or nothing is submitted
            submit_shown(flow, submit, workspace.settings)
            return
        document = run_retraining(flow, workspace.settings, folder)
    typer.echo(document.model_dump_json(indent=1)) if as_json else show_retraining(document)
    raise typer.Exit(0 if document.promoted else 1)


def _print_plan(plan: dict[str, Any]) -> None:
    snapshot = plan["snapshot"]

    def list_counts(counts: dict[str, int]) -> str:
        return ", ".join(f"{name}: {count}" for name, count in counts.items()) or "none"

    lines = [
        f"incumbent {snapshot['incumbent_id']}, dataset {snapshot['dataset_id']}, holdout {snapshot['holdout_id']}",
        f"pairs: {snapshot['n_train']} to train on ({list_counts(plan['sources'])}; {snapshot['n_replayed']} of them "
        f"replayed, {snapshot['n_bundled']} from the package), {snapshot['n_val']} to validate with, "
        f"{snapshot['n_quarantined']} in quarantine",
        f"replayed predictions of the incumbent: {plan['n_predictions']}",
        f"left out: {list_counts(plan['left_out'])}; functionals: {list_counts(plan['functionals'])}",
        f"about {plan['hours_per_training']:.2g} h for each training on this machine; {plan['launch']}",
        f"jobs, {plan['where']}: {', '.join(plan['jobs'])}",
    ]
    if not snapshot["original_holdout_id"]:
        lines.append("no original holdout: forgetting will not be measured")
    for line in lines:
        out.print(line, highlight=False, soft_wrap=True, markup=False)
