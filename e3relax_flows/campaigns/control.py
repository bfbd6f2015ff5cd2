"""Register, start, resume and stop campaigns; their state is in their store."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from monty.json import jsanitize
from pydantic import TypeAdapter, ValidationError
from pymatgen.core import Structure

from e3relax_flows.campaigns.maker import CampaignMaker
from e3relax_flows.campaigns.store import (
    CampaignStores,
    end_campaign,
    find_campaign,
    open_campaign_stores,
    read_pool_chunk,
    request_stop,
    save_campaign,
    withdraw_stop,
    write_pool,
)
from e3relax_flows.candidates.reading import ReadItem
from e3relax_flows.candidates.sources import read_sources
from e3relax_flows.candidates.spool import CandidateList
from e3relax_flows.core.errors import ConfigError, E3RelaxError, EngineError
from e3relax_flows.core.ids import canonicalize
from e3relax_flows.core.settings import E3RelaxSettings
from e3relax_flows.engines.registry import get_engine
from e3relax_flows.ledger.workspace import open_workspace
from e3relax_flows.pairs.dataset_store import find_holdout, open_dataset_stores
from e3relax_flows.places.kinds import PlaceName
from e3relax_flows.places.local import JobReport
from e3relax_flows.places.submission import Submission, submit
from e3relax_flows.prerelax.judges import check_calibrated
from e3relax_flows.registry.models import resolve_model
from e3relax_flows.retraining.maker import RetrainMaker
from e3relax_flows.schemas.campaigns import (
    CampaignConfig,
    CampaignDoc,
    CampaignState,
    StopReason,
    StopRules,
    identify_campaign,
)
from e3relax_flows.schemas.candidates import FileSource, Source
from e3relax_flows.stores.decoding import decode_as
from e3relax_flows.stores.opening import validate_document
from e3relax_flows.stores.pool import SettingsLike

SHOWN = 5
SAMPLES = 5  # candidates that are tried until the engine accepts one
SOURCES: TypeAdapter[list[Source]] = TypeAdapter(list[Source])


def build_maker(config: CampaignConfig) -> CampaignMaker:
    """The maker of a campaign.

    Raises
    ------
    ConfigError
        When the pairs of a potential would all be left out of the training.
    EngineError
        When the engine or a setting of it is unknown.
    """
    maker = CampaignMaker(config=config, engine=get_engine(config.engine, **config.engine_settings))
    check_engine(maker)
    return maker


def check_engine(maker: CampaignMaker) -> None:
    """Check that the results of the engine may be trained on.

    Raises
    ------
    ConfigError
        When it is a potential, and the retraining leaves out relaxations by potentials.
    """
    if not maker.engine.is_dft and maker.config.retraining.dataset.filter.dft_only:
        raise ConfigError(
            f"engine {maker.engine.name!r} is a potential, not DFT, and retraining.dataset.filter.dft_only is true, so "
            "that nothing would be trained on; set it to false"
        )


def check_sources(config: CampaignConfig) -> list[Source]:
    """The sources of a configuration, inputs first.

    Raises
    ------
    ConfigError
        When an entry is unknown or of the wrong type.
    """
    try:
        sources = SOURCES.validate_python(config.sources)
    except ValidationError as error:
        lines = "; ".join(f"sources.{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ConfigError(f"{lines}; see docs/candidates.md") from error
    files: list[Source] = [FileSource(type="files", paths=[Path(path) for path in config.inputs])]
    return [*(files if config.inputs else []), *sources]


def read_candidates(config: CampaignConfig, settings: E3RelaxSettings) -> Iterator[ReadItem]:
    """Candidates of a campaign one by one; errors are those of `check_sources` and `read_sources`."""
    yield from read_sources(check_sources(config), settings)


def check_service(config: CampaignConfig, settings: SettingsLike) -> str:
    """Id of the model in service, after checks of the holdouts and of the second opinion.

    Raises
    ------
    ConfigError
        When a holdout is missing, or the model is not calibrated for the second opinion or for its polish.
    ModelError
        When the alias has no model.
    """
    with open_workspace(settings) as workspace:
        for name in filter(None, (config.retraining.holdout, config.retraining.original_holdout)):
            find_holdout(workspace.get(open_dataset_stores), name)
        folder = resolve_model(config.retraining.alias, workspace)
    check_calibrated(config.options, folder)
    return folder.model_id


def register_campaign(
    stores: CampaignStores, maker: CampaignMaker, items: Iterable[ReadItem], settings: E3RelaxSettings
) -> tuple[CampaignDoc, bool]:
    """Write a campaign and its pool into the store; candidates are kept on disk, never all in memory.

    The id is that of the content: of the configuration without the place and the number of its jobs,
    and of the engine. Registered again, the campaign is found with its first pool and maker.
    Candidates with equal ids of their structures are included once.

    Returns
    -------
    campaign
        As stored.
    is_new
        False if it was stored before.

    Raises
    ------
    ConfigError
        When no structure could be read, a holdout is missing, or the engine's results would not be trained on.
    ModelError
        When the alias has no model.
    ContentError
        When the maker holds a value that has no canonical form.
    """
    check_engine(maker)
    check_service(maker.config, settings)
    canonicalize(maker.as_dict(), "maker")  # jsanitize writes unknown types as strings
    content = jsanitize(maker.as_dict(), recursive_msonable=True)
    campaign_id = _identify(maker)
    known = _find_same(stores, campaign_id, maker.config.name)
    if known is not None:
        return known, False
    with CandidateList() as candidates:
        candidates.add(items)
        counts = candidates.count()
        if counts["candidates"] == 0:
            reasons = "; ".join(f"{name}: {error}" for name, error in candidates.errors[:SHOWN])
            raise ConfigError(f"no structure could be read ({reasons or 'nothing there'})")
        packed = candidates.iterate_packed()
        n_pool, n_chunks = write_pool(stores, campaign_id, packed, maker.config.chunk_size)
    campaign = CampaignDoc(
        campaign_id=campaign_id,
        name=maker.config.name,
        config=maker.config,
        maker=content,
        n_pool=n_pool,
        n_chunks=n_chunks,
        n_unreadable=counts["unreadable"],
        n_duplicates=counts["equal_ids"],
    )
    save_campaign(stores, campaign)
    return campaign, True


def _identify(maker: CampaignMaker) -> str:
    """Content id of a campaign."""
    own = maker.retrain or RetrainMaker(config=maker.config.retraining)
    if type(own) is RetrainMaker and own.config == maker.config.retraining:
        return identify_campaign(maker.config, maker.engine.engine_id)
    written = canonicalize(own, "retrain") | {"name": None, "config": own.config.describe()}
    return identify_campaign(maker.config, maker.engine.engine_id, written)


def _find_same(stores: CampaignStores, campaign_id: str, name: str) -> CampaignDoc | None:
    """The campaign of this content; those that earlier releases registered have other ids."""
    if stores.campaigns.query_one({"campaign_id": campaign_id}, ["campaign_id"]):
        return find_campaign(stores, campaign_id)
    named = [validate_document(raw, CampaignDoc, stores.campaigns) for raw in stores.campaigns.query({"name": name})]
    return next((campaign for campaign in named if _has_content(campaign, campaign_id)), None)


def _has_content(campaign: CampaignDoc, campaign_id: str) -> bool:
    try:
        return _identify(read_maker(campaign)) == campaign_id
    except E3RelaxError:  # its maker needs what is not installed here
        return False


def read_maker(campaign: CampaignDoc) -> CampaignMaker:
    """The maker of a stored campaign.

    Raises
    ------
    ConfigError
        When it cannot be decoded, or holds more than values of installed packages.
    """
    return decode_as(campaign.maker, CampaignMaker, f"the maker of campaign {campaign.campaign_id}")


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
