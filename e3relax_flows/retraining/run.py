"""Plan a retraining, and run one in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jobflow import Flow

from e3relax_flows.core.errors import E3RelaxError
from e3relax_flows.core.settings import E3RelaxSettings
from e3relax_flows.ledger.workspace import Workspace, open_workspace
from e3relax_flows.places.local import JobReport, run_flow_locally
from e3relax_flows.report import console
from e3relax_flows.retraining.judging import CHOOSE_JOB, GATE_JOB, PROMOTE_JOB
from e3relax_flows.retraining.maker import RetrainMaker
from e3relax_flows.retraining.training import count_predictions, estimate_training, plan_snapshot
from e3relax_flows.schemas.retraining import RetrainConfig, RetrainDoc
from e3relax_flows.train.launcher import compose_command, count_devices, read_allocation

TRAINING_LOG = "e3relax_flows.train.launcher"  # logger of trainings inside jobs


def run_retraining(flow: Flow, settings: E3RelaxSettings, folder: Path) -> RetrainDoc:
    """Run the flow of a retraining here, and print each job when it ends.

    Raises
    ------
    E3RelaxError
        When a job failed; nothing was promoted then.

    Examples
    --------
    Two steps from random weights give a network that the gate refuses:

    >>> import tempfile
    >>> from pathlib import Path
    >>> from e3relax_flows import RetrainMaker, isolate_stores, open_pair_store, run_retraining, save_pairs
    >>> from e3relax_flows.testing import make_pairs, prepare_campaign
    >>> settings = isolate_stores(Path(tempfile.mkdtemp()))
    >>> config = prepare_campaign(settings).retraining
    >>> with open_pair_store(settings) as store:
    ...     n_new = save_pairs(store, make_pairs())
    >>> training = {"network": {"n_layers": 1}, "schedule": {"max_steps": 2, "warmup_steps": 1}, "val_every": 1}
    >>> config = config.model_copy(update={"method": "scratch", "blend": 0.0, "training": training})
    >>> document = run_retraining(RetrainMaker(config=config).make(), settings, Path("runs/retraining"))
    >>> document.trainings[0].step, str(document.decision), document.promoted
    (2, 'reject', False)
    """

    def note(report: JobReport) -> None:
        if report.error is None:
            console.err.print(f"{report.name}: done", style="dim", highlight=False)
        elif report.name not in (CHOOSE_JOB, GATE_JOB, PROMOTE_JOB):  # these fail when another has
            console.print_error(f"{report.name}: {report.error}")

    with open_workspace(settings) as workspace, console.hide_warnings(), console.show_log(TRAINING_LOG):
        jobs = workspace.jobs
        run = run_flow_locally(flow, jobs, folder, note)
        if run.failures:
            first = run.failures[0]
            raise E3RelaxError(f"{first.name} failed, nothing was promoted; its error is above")
        return RetrainDoc.model_validate(jobs.get_output(flow.output.uuid, load=True))


def plan_retraining(config: RetrainConfig, incumbent: str | None, submit: str, workspace: Workspace) -> dict[str, Any]:
    """What a retraining would do now."""
    snapshot, dataset = plan_snapshot(config, incumbent, workspace)
    command = compose_command(Path("run.yaml"), config.launch, read_allocation(count_devices()))
    return {
        "snapshot": snapshot.model_dump(mode="json"),
        "sources": dataset.sources,
        "functionals": dataset.functionals,
        "left_out": dataset.left_out,
        "n_predictions": count_predictions(config),
        "hours_per_training": float(f"{estimate_training(config, snapshot, dataset, workspace):.2g}"),
        "jobs": [job.name for job in RetrainMaker(config=config).make(incumbent).jobs],
        "where": submit,
        "launch": " ".join(command) or "in the process of the job",
    }
