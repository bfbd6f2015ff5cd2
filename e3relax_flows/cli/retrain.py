"""`e3relax retrain`: from the pairs in the store to a model that the gate lets pass, or not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from e3relax_flows.cli.console import TRAINING_LOG, err, hide_warnings, out, print_error, show_log
from e3relax_flows.core.errors import E3RelaxError

if TYPE_CHECKING:
    from e3relax_flows.core.settings import E3RelaxSettings
    from e3relax_flows.schemas.retraining import RetrainConfig, RetrainDoc


OutOption = Annotated[Path, typer.Option("--out", "-o", help="Folder of the jobs' own folders.", file_okay=False)]


def retrain(
    config: Annotated[Path, typer.Argument(help="YAML file; configs/retrain.yaml shows the keys.")],
    submit: Annotated[str, typer.Option(help="Where the jobs run.", metavar="local|fireworks|remote")] = "local",
    incumbent: Annotated[
        str | None, typer.Option(help="Model in service: alias, name or id; none: what the alias means.")
    ] = None,
    folder: Annotated[Path, typer.Option("--out", "-o", help="Folder of the jobs' own folders.")] = Path(
        "runs/retrain"
    ),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and keep nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout and nothing else.")] = False,
) -> None:
    """Train on the pairs in the store, compare with the model in service on a frozen holdout, promote what is better.

    Run again after an interruption: the same pairs and configuration are the same training, which goes on.
    Exit code 1 when the challenger was not promoted.
    """
    from e3relax_flows.cli.config_files import load_retrain_config
    from e3relax_flows.core.settings import load_settings

    settings = load_settings()
    content = load_retrain_config(config)
    if dry_run:
        plan = _plan(content, incumbent, submit, settings)
        typer.echo(json.dumps(plan, indent=1)) if as_json else _print_plan(plan)
        return
    from e3relax_flows.retraining.maker import RetrainMaker

    flow = RetrainMaker(config=content).make(incumbent)
    if submit != "local":
        from e3relax_flows.cli.submission import submit_shown
        from e3relax_flows.retraining.training import plan_snapshot

        plan_snapshot(content, incumbent, settings)  # pairs, holdout and incumbent are there, or nothing is submitted
        submit_shown(flow, submit, settings)
        return
    document = run_retraining(flow, settings, folder)
    typer.echo(document.model_dump_json(indent=1)) if as_json else show_retraining(document)
    raise typer.Exit(0 if document.promoted else 1)


def _plan(config: RetrainConfig, incumbent: str | None, submit: str, settings: E3RelaxSettings) -> dict[str, Any]:
    """What a retraining would do now."""
    from e3relax_flows.retraining.maker import RetrainMaker
    from e3relax_flows.retraining.training import estimate_training, plan_snapshot
    from e3relax_flows.train.launcher import compose_command, count_devices, read_allocation

    snapshot, dataset = plan_snapshot(config, incumbent, settings)
    command = compose_command(Path("run.yaml"), config.launch, read_allocation(count_devices()))
    return {
        "snapshot": snapshot.model_dump(mode="json"),
        "sources": dataset.sources,
        "functionals": dataset.functionals,
        "left_out": dataset.left_out,
        "hours_per_training": float(f"{estimate_training(config, snapshot, dataset, settings):.2g}"),
        "jobs": [job.name for job in RetrainMaker(config=config).make(incumbent).jobs],
        "where": submit,
        "launch": " ".join(command) or "in the process of the job",
    }


def _print_plan(plan: dict[str, Any]) -> None:
    snapshot = plan["snapshot"]

    def list_counts(counts: dict[str, int]) -> str:
        return ", ".join(f"{name}: {count}" for name, count in counts.items()) or "none"

    lines = [
        f"incumbent {snapshot['incumbent_id']}, dataset {snapshot['dataset_id']}, holdout {snapshot['holdout_id']}",
        f"pairs: {snapshot['n_train']} to train on ({list_counts(plan['sources'])}; {snapshot['n_replayed']} of them "
        f"replayed, {snapshot['n_bundled']} from the package), {snapshot['n_val']} to validate with, "
        f"{snapshot['n_quarantined']} in quarantine",
        f"left out: {list_counts(plan['left_out'])}; functionals: {list_counts(plan['functionals'])}",
        f"about {plan['hours_per_training']:.2g} h for each training on this machine; {plan['launch']}",
        f"jobs, {plan['where']}: {', '.join(plan['jobs'])}",
    ]
    if not snapshot["original_holdout_id"]:
        lines.append("no original holdout: what is forgotten will not be seen")
    for line in lines:
        out.print(line, highlight=False, soft_wrap=True, markup=False)


def run_retraining(flow: Any, settings: E3RelaxSettings, folder: Path) -> RetrainDoc:
    """Run the flow of a retraining here, and print each job when it ends.

    Raises
    ------
    E3RelaxError
        When a job failed; nothing was promoted then.
    """
    from e3relax_flows.places.local import JobReport, run_flow_locally
    from e3relax_flows.retraining.judging import CHOOSE_JOB, GATE_JOB, PROMOTE_JOB
    from e3relax_flows.schemas.retraining import RetrainDoc
    from e3relax_flows.stores.opening import open_job_store

    def note(report: JobReport) -> None:
        if report.error is None:
            err.print(f"{report.name}: done", style="dim", highlight=False)
        elif report.name not in (CHOOSE_JOB, GATE_JOB, PROMOTE_JOB):  # these fail when another has
            print_error(f"{report.name}: {report.error}")

    with open_job_store(settings) as jobs, hide_warnings(), show_log(TRAINING_LOG):
        run = run_flow_locally(flow, jobs, folder, note)
        if run.failures:
            first = run.failures[0]
            raise E3RelaxError(f"{first.name} failed, nothing was promoted; its error is above")
        return RetrainDoc.model_validate(jobs.get_output(flow.output.uuid, load=True))


def show_retraining(document: RetrainDoc) -> None:
    """Print what was trained and what the gate decided, with its reasons."""
    for training in document.trainings:
        out.print(
            f"run {training.run_id}: {training.step} steps in {training.hours:.2g} h, error on validation "
            f"{training.best_score:.3f} of the identity's, model {training.model_id}",
            highlight=False,
            soft_wrap=True,
        )
    out.print(f"gate {document.gate_id}: {document.decision}", style="bold", highlight=False)
    for reason in document.reasons:
        out.print(f"  {reason}", highlight=False, soft_wrap=True, markup=False)
    out.print(str(document.message), highlight=False, soft_wrap=True, markup=False)
