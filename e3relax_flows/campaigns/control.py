"""Start, resume and stop campaigns; their state is in their store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pymatgen.core import Structure

from e3relax_flows.campaigns.maker import CampaignMaker
from e3relax_flows.campaigns.register import build_maker, read_candidates, read_maker, register_campaign
from e3relax_flows.campaigns.store import (
    CampaignStores,
    end_campaign,
    find_campaign,
    open_campaign_stores,
    read_pool_chunk,
    request_stop,
    save_campaign,
    withdraw_stop,
)
from e3relax_flows.core.errors import ConfigError, EngineError
from e3relax_flows.core.settings import E3RelaxSettings
from e3relax_flows.ledger.workspace import open_workspace
from e3relax_flows.places.kinds import PlaceName
from e3relax_flows.places.local import JobReport
from e3relax_flows.places.submission import Submission, submit
from e3relax_flows.schemas.campaigns import CampaignConfig, CampaignDoc, CampaignState, StopReason, StopRules

SAMPLES = 5  # candidates that are tried until the engine accepts one


def start_campaign(
    stores: CampaignStores,
    campaign: CampaignDoc,
    settings: E3RelaxSettings,
    where: PlaceName = "local",
    out: Path = Path("runs/campaign"),
    on_job_finished: Callable[[JobReport], None] | None = None,
) -> Submission:
    """Run or submit the jobs that continue a campaign.

    Called again, it submits nothing twice to a launchpad. Parameters and errors are those of `submit`.

    Raises
    ------
    ConfigError
        When the campaign cannot continue without the user, with what to type.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from e3relax_flows import (
    ...     build_campaign_maker, find_campaign, isolate_stores, open_campaign_stores, read_pool, register_campaign,
    ...     start_campaign,
    ... )
    >>> from e3relax_flows.testing import prepare_campaign
    >>> settings = isolate_stores(Path(tempfile.mkdtemp()))
    >>> config = prepare_campaign(settings)
    >>> with open_campaign_stores(settings) as stores:
    ...     pool = read_pool(config, settings)
    ...     campaign, _ = register_campaign(stores, build_campaign_maker(config), pool, settings)
    ...     submission = start_campaign(stores, campaign, settings, "local")
    ...     str(find_campaign(stores, campaign.campaign_id).state), len(submission.run.failures)
    ('finished', 0)
    """
    check_start(campaign)
    maker = read_maker(campaign)
    before = campaign.state
    campaign.state, campaign.place = CampaignState.RUNNING, where
    save_campaign(stores, campaign)  # before the jobs, which may run at once
    flow = maker.make(campaign.campaign_id, campaign.n_starts)
    samples = list_samples(stores, campaign, maker)
    try:
        return submit(
            flow, where, settings=settings, samples=samples, out=out / "jobs", on_job_finished=on_job_finished
        )
    except ConfigError:  # nothing was submitted
        campaign.state = before
        save_campaign(stores, campaign)
        raise


def run_campaign(
    config: CampaignConfig,
    settings: E3RelaxSettings,
    out: Path,
    on_job_finished: Callable[[JobReport], None] | None = None,
) -> CampaignDoc:
    """Run a campaign here to its end, or continue it where it was interrupted, from its stored results.

    `workflows/06_campaign.py` is a complete script, which also makes the holdout and the pool. The
    campaign is `finished` if a stop rule ended it; if a job failed, it has another state with a message.

    Parameters
    ----------
    config
        Configuration; its id is that of the campaign.
    settings
        For the stores.
    out
        Folder of the jobs' own folders.
    on_job_finished
        Called with each job that ended.

    Raises
    ------
    ConfigError, EngineError, ModelError
        Those of `register_campaign` and `build_maker`.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from e3relax_flows import isolate_stores, run_campaign
    >>> from e3relax_flows.testing import prepare_campaign
    >>> settings = isolate_stores(Path(tempfile.mkdtemp()))
    >>> campaign = run_campaign(prepare_campaign(settings), settings, Path("runs/campaign"))
    >>> str(campaign.state), campaign.message
    ('finished', '1 labels, the budget is 1')
    """
    with open_workspace(settings) as workspace:  # also that of the jobs, which run in this process
        stores = workspace.get(open_campaign_stores)
        campaign, _ = register_campaign(stores, build_maker(config), read_candidates(config, settings), settings)
        if campaign.state in (CampaignState.RUNNING, CampaignState.HALTED, CampaignState.STOPPED):
            resume_campaign(stores, campaign)
        if campaign.state != CampaignState.FINISHED:
            start_campaign(stores, campaign, settings, "local", out, on_job_finished)
        return find_campaign(stores, campaign.campaign_id)


def check_start(campaign: CampaignDoc) -> None:
    """Check that a campaign can continue without the user.

    Raises
    ------
    ConfigError
        When it cannot, with what to type.
    """
    if campaign.state not in (CampaignState.NEW, CampaignState.RUNNING):
        raise ConfigError(
            f"campaign {campaign.campaign_id} is {campaign.state} ({campaign.message}); continue with: e3relax "
            f"campaign resume {campaign.campaign_id}"
        )


def list_samples(stores: CampaignStores, campaign: CampaignDoc, maker: CampaignMaker) -> list[Any]:
    """A sample flow of the engine for the checks; None if it accepts none of the first candidates."""
    chunk = read_pool_chunk(stores, campaign.campaign_id, 0)
    for index in range(min(SAMPLES, len(chunk.ids))):
        structure: Structure = chunk.unpack(index)
        try:
            return [maker.engine.make(structure)]
        except EngineError:
            continue
    return []


def resume_campaign(
    stores: CampaignStores, campaign: CampaignDoc, labels: int | None = None, core_hours: float | None = None
) -> None:
    """Continue a campaign after any end: a kill, a failed job, a user, a rule.

    Jobs of earlier starts do nothing more; their stored results are used.

    Parameters
    ----------
    labels, core_hours
        New budgets; None: no change.

    Raises
    ------
    ConfigError
        When a rule ended it and is not changed, with what to type.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from e3relax_flows import isolate_stores, open_campaign_stores, resume_campaign, run_campaign
    >>> from e3relax_flows.testing import prepare_campaign
    >>> settings = isolate_stores(Path(tempfile.mkdtemp()))
    >>> campaign = run_campaign(prepare_campaign(settings), settings, Path("runs/campaign"))
    >>> with open_campaign_stores(settings) as stores:
    ...     resume_campaign(stores, campaign, labels=2)
    >>> str(campaign.state), campaign.config.stop.labels  # `start_campaign` goes on
    ('running', 2)
    """
    rules = check_resumption(campaign, labels, core_hours)
    withdraw_stop(stores, campaign.campaign_id)
    campaign.config = campaign.config.model_copy(update={"stop": rules})
    campaign.state, campaign.reason, campaign.message = CampaignState.RUNNING, None, None
    campaign.n_starts += 1
    save_campaign(stores, campaign)


def check_resumption(campaign: CampaignDoc, labels: int | None = None, core_hours: float | None = None) -> StopRules:
    """The stop rules with which a campaign would continue.

    Parameters
    ----------
    labels, core_hours
        New budgets; None: no change.

    Raises
    ------
    ConfigError
        When a rule ended it and is not changed, with what to type.
    """
    budgets = {"labels": labels, "core_hours": core_hours}
    changed = {name: value for name, value in budgets.items() if value is not None}
    rules = StopRules.model_validate(campaign.config.stop.model_dump() | changed)
    enlarged = {StopReason.LABELS: labels, StopReason.CORE_HOURS: core_hours}
    if campaign.state == CampaignState.FINISHED and (
        campaign.reason is None or campaign.reason not in enlarged or enlarged[campaign.reason] is None
    ):
        hint = {
            StopReason.LABELS: "give it more with --labels N",
            StopReason.CORE_HOURS: "give it more with --core-hours HOURS",
        }.get(campaign.reason or StopReason.PERSON, "register another one with a new name: e3relax campaign new CONFIG")
        raise ConfigError(f"campaign {campaign.campaign_id} is finished: {campaign.message}; {hint}")
    return rules


def stop_campaign(stores: CampaignStores, campaign: CampaignDoc) -> str:
    """Stop a campaign before its next phase; one whose jobs were never started ends now. Return a report."""
    if campaign.state in (CampaignState.FINISHED, CampaignState.STOPPED):
        return f"campaign {campaign.campaign_id} is {campaign.state} already: {campaign.message}"
    request_stop(stores, campaign.campaign_id)
    if campaign.state != CampaignState.RUNNING:
        end_campaign(stores, campaign, CampaignState.STOPPED, "a user stopped it", StopReason.PERSON)
        return f"campaign {campaign.campaign_id} is stopped"
    return (
        f"campaign {campaign.campaign_id} ends before its next phase; running jobs finish; continue with: "
        f"e3relax campaign resume {campaign.campaign_id}"
    )
