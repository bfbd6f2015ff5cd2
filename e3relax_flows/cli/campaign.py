"""`e3relax campaign new | run | status | resume | stop`: active learning, from a pool to a better model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from e3relax_flows.cli.options import CoreHoursOption, DryRunOption, JsonOption, SubmitOption
from e3relax_flows.report import console

if TYPE_CHECKING:
    from e3relax_flows.campaigns.store import CampaignStores
    from e3relax_flows.core.settings import E3RelaxSettings
    from e3relax_flows.places.local import JobReport
    from e3relax_flows.schemas.campaigns import CampaignDoc, GenerationDoc

campaign_app = typer.Typer(
    help="Active learning: choose candidates, label them, retrain, promote what passes the gate; repeat.",
    no_args_is_help=True,
)
CampaignArgument = Annotated[str, typer.Argument(help="Id of a campaign, the first digits of it, or its name.")]
FolderOption = Annotated[Path, typer.Option("--out", "-o", help="Folder of the jobs' own folders.", file_okay=False)]
DEFAULT_FOLDER = Path("runs/campaign")


@campaign_app.command("new")
def register(
    config: Annotated[Path, typer.Argument(help="YAML file; configs/campaign.yaml shows the keys.")],
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Check a campaign, print its plan and cost, and write its pool into the store. Nothing is computed yet."""
    from e3relax_flows.campaigns.plan import plan_campaign
    from e3relax_flows.campaigns.register import (
        build_maker,
        check_service,
        check_sources,
        read_candidates,
        register_campaign,
    )
    from e3relax_flows.campaigns.store import open_campaign_stores
    from e3relax_flows.cli.config_files import load_campaign_config
    from e3relax_flows.ledger.workspace import open_workspace
    from e3relax_flows.prerelax.functionals import warn_of_functional
    from e3relax_flows.registry.models import resolve_model

    content = load_campaign_config(config)
    maker = build_maker(content)
    campaign = None
    with open_workspace() as workspace, console.hide_warnings():
        model_id = check_service(content, workspace)
        warn_of_functional(maker.engine, resolve_model(model_id, workspace))
        check_sources(content)
        candidates = read_candidates(content, workspace.settings)
        if dry_run:
            n_pool = _count(candidates)
        else:
            stores = workspace.get(open_campaign_stores)
            campaign, is_new = register_campaign(stores, maker, candidates, workspace.settings)
            n_pool = campaign.n_pool
            if not is_new:
                console.err.print("it was stored before; another `name` makes another one", style="yellow")
        plan = plan_campaign(maker, n_pool, model_id, workspace)
    if campaign is not None:
        plan["campaign_id"] = campaign.campaign_id
        plan |= {"n_unreadable": campaign.n_unreadable, "n_duplicates": campaign.n_duplicates}
    console.print_json(plan) if as_json else _print_plan(plan)


@campaign_app.command("run")
def run(
    name: CampaignArgument,
    submit: SubmitOption = "local",
    folder: FolderOption = DEFAULT_FOLDER,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Run a campaign here, or submit its jobs to the workers of another place.

    A repeated command does nothing twice. Exit code 1 if it halted.
    """
    from e3relax_flows.campaigns.control import check_start
    from e3relax_flows.campaigns.store import find_campaign, open_campaign_stores
    from e3relax_flows.ledger.workspace import open_workspace
    from e3relax_flows.places.submission import check_place

    with open_workspace() as workspace:
        stores = workspace.get(open_campaign_stores)
        campaign = find_campaign(stores, name)
        if dry_run:
            check_start(campaign)
            _print_lines(stores, campaign, [f"it would continue, place: {check_place(submit)}"], as_json)
            return
        raise typer.Exit(_go_on(stores, campaign, workspace.settings, _Way(submit, folder, as_json)))


@campaign_app.command("status")
def show_status(
    name: Annotated[str | None, typer.Argument(help="Id or name; none: list all.", metavar="[ID]")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show the generations of a campaign in one table; without a name, all campaigns."""
    from e3relax_flows.campaigns.store import find_campaign, list_campaigns, load_generations, open_campaign_stores
    from e3relax_flows.report.terminal import show_campaign, summarize_campaign

    with open_campaign_stores() as stores:
        campaigns = list_campaigns(stores) if name is None else [find_campaign(stores, name)]
        found = [(campaign, load_generations(stores, campaign.campaign_id)) for campaign in campaigns]
    if as_json:
        content = [_describe(campaign, generations) for campaign, generations in found]
        console.print_json(content if name is None else content[0])
    elif len(found) == 1:
        show_campaign(*found[0])
    elif found:
        for campaign, generations in found:
            console.out.print(
                summarize_campaign(campaign, len(generations)), highlight=False, soft_wrap=True, markup=False
            )
    else:
        console.out.print("no campaigns yet; make one with: e3relax campaign new configs/campaign.yaml", soft_wrap=True)


@campaign_app.command("resume")
def resume(
    name: CampaignArgument,
    submit: Annotated[
        str | None, typer.Option(help="Where the jobs run; none: the present place.", metavar="local|fireworks|remote")
    ] = None,
    labels: Annotated[int | None, typer.Option(help="New budget of labels, of the whole campaign.", min=1)] = None,
    core_hours: CoreHoursOption = None,
    folder: FolderOption = DEFAULT_FOLDER,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Continue a campaign after any end, from its stored results. Exit code 1 if it halted."""
    from e3relax_flows.campaigns.control import check_resumption, resume_campaign
    from e3relax_flows.campaigns.store import find_campaign, open_campaign_stores
    from e3relax_flows.ledger.workspace import open_workspace
    from e3relax_flows.places.submission import check_place

    with open_workspace() as workspace:
        stores = workspace.get(open_campaign_stores)
        campaign = find_campaign(stores, name)
        where = check_place(submit or campaign.place or "local")
        if dry_run:
            changed = check_resumption(campaign, labels, core_hours)
            budget = [f"{key}: {value}" for key, value in changed.model_dump().items() if value is not None]
            _print_lines(
                stores, campaign, [f"it would continue, place: {where}; stop rules: {', '.join(budget)}"], as_json
            )
            return
        resume_campaign(stores, campaign, labels, core_hours)
        raise typer.Exit(_go_on(stores, campaign, workspace.settings, _Way(where, folder, as_json)))


@campaign_app.command("stop")
def stop(name: CampaignArgument, dry_run: DryRunOption = False, as_json: JsonOption = False) -> None:
    """Stop a campaign before its next phase; running jobs finish and are kept."""
    from e3relax_flows.campaigns.control import stop_campaign
    from e3relax_flows.campaigns.store import find_campaign, load_generations, open_campaign_stores

    with open_campaign_stores() as stores:
        campaign = find_campaign(stores, name)
        if dry_run:
            _print_lines(stores, campaign, ["it would end before its next phase"], as_json)
            return
        text = stop_campaign(stores, campaign)
        if as_json:
            found = find_campaign(stores, campaign.campaign_id)
            console.print_json(_describe(found, load_generations(stores, campaign.campaign_id)) | {"done": text})
        else:
            console.out.print(text, highlight=False, soft_wrap=True, markup=False)


def _count(items: Any) -> int:
    from e3relax_flows.candidates.spool import CandidateList

    with CandidateList() as candidates:
        candidates.add(items)
        return candidates.count()["candidates"]


def _print_plan(plan: dict[str, Any]) -> None:
    kind = "" if plan["is_dft"] else " (a potential, not DFT)"
    cost = (
        f"about {plan['core_hours']:.3g} core hours by {plan['known_relaxations']} relaxations of this engine that are "
        "in the store"
        if plan["core_hours"] is not None
        else "their hours are not known: the store has no relaxation by this engine"
    )
    training = (
        f"about {plan['training_hours']:.2g} h of training on this machine"
        if plan["training_hours"] is not None
        else "hours of training are not known: there are no pairs to train on yet"
    )
    mix = ", ".join(f"{share:.0%} {arm}" for arm, share in plan["mix"].items())
    lines = [
        f"pool: {plan['n_pool']} candidates, predicted in {plan['prediction_jobs']} jobs; model in service "
        f"{plan['model_id']}",
        f"at most {plan['labels']} labels by {plan['engine']}{kind} in {plan['generations']} generations of "
        f"{plan['labels_per_generation']}: {mix}",
        f"about {plan['relaxations']} relaxations with controls; {cost}",
        training,
    ]
    if plan["core_hour_budget"]:
        lines.append(f"budget: {plan['core_hour_budget']:.3g} core hours")
    if plan.get("n_unreadable") or plan.get("n_duplicates"):
        lines.append(f"left out: {plan['n_unreadable']} unreadable, {plan['n_duplicates']} identical")
    name = plan.get("campaign_id")
    lines.append(f"next: e3relax campaign run {name}" if name else "nothing was stored (--dry-run)")
    for line in lines:
        console.out.print(line, highlight=False, soft_wrap=True, markup=False)


class _Way(NamedTuple):
    """Place and output options of a campaign."""

    place: str
    folder: Path
    as_json: bool


def _print_lines(stores: CampaignStores, campaign: CampaignDoc, lines: list[str], as_json: bool) -> None:
    """Print what would be done."""
    from e3relax_flows.campaigns.store import load_generations
    from e3relax_flows.report.terminal import summarize_campaign

    generations = load_generations(stores, campaign.campaign_id)
    if as_json:
        console.print_json({"dry_run": True, "would": lines, **_describe(campaign, generations)})
        return
    for line in (summarize_campaign(campaign, len(generations)), *lines, "nothing was done: that was a dry run"):
        console.out.print(line, highlight=False, soft_wrap=True, markup=False)


def _go_on(stores: CampaignStores, campaign: CampaignDoc, settings: E3RelaxSettings, way: _Way) -> int:
    from e3relax_flows.campaigns.control import start_campaign
    from e3relax_flows.campaigns.store import find_campaign, load_generations
    from e3relax_flows.core.errors import StoppedError
    from e3relax_flows.places.submission import check_place
    from e3relax_flows.report.terminal import show_campaign
    from e3relax_flows.retraining.run import TRAINING_LOG
    from e3relax_flows.schemas.campaigns import CampaignState

    where = check_place(way.place)

    def note(report: JobReport) -> None:
        if report.error is not None:
            console.print_error(f"{report.name}: {report.error}")
        elif report.name.startswith("e3r "):
            console.err.print(f"{report.name}: done", style="dim", highlight=False)

    try:
        with console.hide_warnings(), console.show_log(TRAINING_LOG):
            submission = start_campaign(stores, campaign, settings, where, way.folder, note)
    except (KeyboardInterrupt, StoppedError):
        console.print_error(f"interrupted; `e3relax campaign resume {campaign.campaign_id}` continues it")
        raise
    for warning in submission.warnings:
        console.err.print(warning, style="yellow", soft_wrap=True, markup=False, highlight=False)
    if submission.run is None:
        text = console.err if way.as_json else console.out
        text.print(submission.describe(), highlight=False, soft_wrap=True, markup=False)
        text.print(f"see: e3relax campaign status {campaign.campaign_id}", highlight=False, soft_wrap=True)
    campaign = find_campaign(stores, campaign.campaign_id)
    generations = load_generations(stores, campaign.campaign_id)
    if way.as_json:
        console.print_json(_describe(campaign, generations))
    elif submission.run is not None:
        show_campaign(campaign, generations)
    if submission.run is None:
        return 0
    return int(campaign.state in (CampaignState.HALTED, CampaignState.RUNNING))


def _describe(campaign: CampaignDoc, generations: list[GenerationDoc]) -> dict[str, Any]:
    content = campaign.model_dump(mode="json", exclude={"maker"})
    return content | {"generations": [item.model_dump(mode="json") for item in generations]}
