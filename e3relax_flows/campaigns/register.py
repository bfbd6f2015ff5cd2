"""Register campaigns: their makers, sources and pools, written into the store once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from monty.json import jsanitize
from pydantic import TypeAdapter, ValidationError

from e3relax_flows.campaigns.maker import CampaignMaker
from e3relax_flows.campaigns.store import CampaignStores, find_campaign, save_campaign, write_pool
from e3relax_flows.candidates.reading import ReadItem
from e3relax_flows.candidates.sources import read_sources
from e3relax_flows.candidates.spool import CandidateList
from e3relax_flows.core.errors import ConfigError, E3RelaxError
from e3relax_flows.core.ids import canonicalize
from e3relax_flows.core.settings import E3RelaxSettings
from e3relax_flows.engines.registry import get_engine
from e3relax_flows.ledger.claims import hold_submission
from e3relax_flows.ledger.workspace import open_workspace
from e3relax_flows.pairs.dataset_store import find_holdout, open_dataset_stores
from e3relax_flows.prerelax.judges import check_calibrated
from e3relax_flows.registry.models import resolve_model
from e3relax_flows.retraining.maker import RetrainMaker
from e3relax_flows.schemas.campaigns import CampaignConfig, CampaignDoc, identify_campaign
from e3relax_flows.schemas.candidates import FileSource, Source
from e3relax_flows.stores.decoding import decode_as
from e3relax_flows.stores.opening import validate_document
from e3relax_flows.stores.pool import SettingsLike

SHOWN = 5
SOURCES: TypeAdapter[list[Source]] = TypeAdapter(list[Source])


def build_maker(config: CampaignConfig) -> CampaignMaker:
    """The maker of a campaign.

    Raises
    ------
    ConfigError
        When the pairs of a potential would all be left out of the training.
    EngineError
        When the engine or a setting of it is unknown.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from e3relax_flows import build_campaign_maker, isolate_stores
    >>> from e3relax_flows.testing import prepare_campaign
    >>> settings = isolate_stores(Path(tempfile.mkdtemp()))
    >>> maker = build_campaign_maker(prepare_campaign(settings))
    >>> maker.engine.code, maker.config.labels
    ('EMT', 1)
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
    """Candidates of a campaign one by one; errors are those of `check_sources` and `read_sources`.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from e3relax_flows import isolate_stores, read_pool
    >>> from e3relax_flows.testing import prepare_campaign
    >>> settings = isolate_stores(Path(tempfile.mkdtemp()))
    >>> config = prepare_campaign(settings)
    >>> [(item.id, item.structure.formula) for item in read_pool(config, settings)]
    [('Ag', 'Ag1'), ('Cu', 'Cu1')]
    """
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
    StoreError
        When another process registers the same campaign for longer than a minute.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from e3relax_flows import (
    ...     build_campaign_maker, isolate_stores, open_campaign_stores, read_pool, register_campaign
    ... )
    >>> from e3relax_flows.testing import prepare_campaign
    >>> settings = isolate_stores(Path(tempfile.mkdtemp()))
    >>> config = prepare_campaign(settings)
    >>> maker = build_campaign_maker(config)
    >>> with open_campaign_stores(settings) as stores:
    ...     campaign, is_new = register_campaign(stores, maker, read_pool(config, settings), settings)
    ...     same, is_new_again = register_campaign(stores, maker, [], settings)
    >>> campaign.n_pool, is_new, is_new_again, same.campaign_id == campaign.campaign_id
    (2, True, False, True)
    """
    check_engine(maker)
    check_service(maker.config, settings)
    canonicalize(maker.as_dict(), "maker")  # jsanitize writes unknown types as strings
    content = jsanitize(maker.as_dict(), recursive_msonable=True)
    campaign_id = _identify(maker)
    # one after the other: a second registration would replace the pool that the campaign of the first reads
    with hold_submission(settings, f"campaign {campaign_id}"):
        known = _find_same(stores, campaign_id, maker.config.name)
        if known is not None:
            return known, False
        return _write_campaign(stores, campaign_id, maker, content, items), True


def _write_campaign(
    stores: CampaignStores, campaign_id: str, maker: CampaignMaker, content: Any, items: Iterable[ReadItem]
) -> CampaignDoc:
    """Write the pool, then the document."""
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
    return campaign


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
