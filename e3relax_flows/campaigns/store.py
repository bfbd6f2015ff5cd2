"""The store of campaigns: a document each, the pool in chunks, scores by model, and the result of each phase."""

from __future__ import annotations

import base64
import logging
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

import numpy as np
from maggma.core import Store
from maggma.stores import MemoryStore
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from pymatgen.core import Structure

from e3relax_flows.candidates.spool import PackedCandidate, unpack_structure
from e3relax_flows.core.errors import ConfigError, StoreError
from e3relax_flows.core.run_information import now
from e3relax_flows.core.settings import E3RelaxSettings
from e3relax_flows.schemas.campaigns import CampaignDoc, CampaignState, GenerationDoc, Phase, StopReason
from e3relax_flows.stores.opening import describe_store, dump_document, open_store, validate_document, write_documents
from e3relax_flows.stores.pool import shared

SHORTEST_ID = 4  # digits of an id that are enough to find a campaign
STOP = "stop"  # instead of a phase: a user requested a stop
NOT_PACKED = ("chunk_key", "campaign_id", "number", "ids", "structure_ids", "n_electrons")

Result = TypeVar("Result", bound=BaseModel)


logger = logging.getLogger(__name__)


class PoolChunk(BaseModel):
    """Some candidates of a pool; found by `chunk_key`."""

    chunk_key: str = Field(description="campaign_id:number")
    campaign_id: str
    number: int
    ids: list[str]
    structure_ids: list[str]
    n_electrons: list[int]
    packed: list[str] = Field(default_factory=list, description="pymatgen dictionaries as JSON, deflated, in base 64")

    def unpack(self, index: int) -> Structure:
        """One of the structures."""
        return unpack_structure(base64.b64decode(self.packed[index]))


class ScoreChunk(BaseModel):
    """Scores of the candidates of one chunk by a model; found by `score_key`, written once."""

    model_config = ConfigDict(protected_namespaces=())

    score_key: str = Field(description="group:number")
    group: str = Field(description="campaign_id:model_id")
    number: int
    expected_errors: list[float | None] = Field(description="Å; None: no prediction")
    is_calibrated: bool = True
    n_channels: int = 0
    embeddings: str = Field("", description="float32 [n, n_channels], in base 64; empty: the network has none")

    def unpack_embeddings(self) -> NDArray[np.float64] | None:
        """[n, n_channels]; None if there are none."""
        if not self.n_channels:
            return None
        flat = np.frombuffer(base64.b64decode(self.embeddings), dtype="<f4")
        return flat.reshape(-1, self.n_channels).astype(np.float64)


@dataclass(frozen=True)
class CampaignStores:
    """The four collections, connected."""

    campaigns: Store
    pool: Store
    scores: Store
    phases: Store


@shared
@contextmanager
def open_campaign_stores(settings: E3RelaxSettings) -> Iterator[CampaignStores]:
    """The collections of campaigns, in the store of the outcomes, connected, closed at the end.

    Raises
    ------
    ConfigError
        When the store of outcomes is described wrongly, or is in the memory of this process.
    StoreError
        When it cannot be reached.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from e3relax_flows import isolate_stores, open_campaign_stores
    >>> with open_campaign_stores(isolate_stores(Path(tempfile.mkdtemp()))) as stores:
    ...     stores.campaigns.count()
    0
    """
    with ExitStack() as stack:
        stores = [
            stack.enter_context(open_store(settings, "OUTCOME_STORE", "outcomes", key, indexed, ending))
            for ending, key, indexed in (
                ("_campaigns", "campaign_id", ["name"]),
                ("_campaign_pool", "chunk_key", ["campaign_id"]),
                ("_campaign_scores", "score_key", ["group"]),
                ("_campaign_phases", "phase_key", ["campaign_id"]),
            )
        ]
        if type(stores[0]) is MemoryStore:
            raise ConfigError(
                "OUTCOME_STORE is a MemoryStore, and the workers of a campaign would each see another one; leave it "
                "out for the embedded store, or describe a MongoStore"
            )
        yield CampaignStores(*stores)


def find_campaign(stores: CampaignStores, name: str) -> CampaignDoc:
    """A campaign by its id, the first digits of it, or its name.

    Raises
    ------
    ConfigError
        When there is none, or more than one.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from e3relax_flows import (
    ...     build_campaign_maker, find_campaign, isolate_stores, open_campaign_stores, read_pool, register_campaign
    ... )
    >>> from e3relax_flows.testing import prepare_campaign
    >>> settings = isolate_stores(Path(tempfile.mkdtemp()))
    >>> config = prepare_campaign(settings)
    >>> with open_campaign_stores(settings) as stores:
    ...     _ = register_campaign(stores, build_campaign_maker(config), read_pool(config, settings), settings)
    ...     campaign = find_campaign(stores, config.name)
    >>> campaign.n_pool, str(campaign.state)
    (2, 'new')
    """
    raw = stores.campaigns.query_one({"campaign_id": name})
    found = [raw] if raw else list(stores.campaigns.query({"name": name}))
    if not found and len(name) >= SHORTEST_ID:
        ids = [key for key in stores.campaigns.distinct("campaign_id") if str(key).startswith(name)]
        found = list(stores.campaigns.query({"campaign_id": {"$in": ids}}))
    if len(found) == 1:
        return validate_document(found[0], CampaignDoc, stores.campaigns)
    listed = ", ".join(f"{raw['campaign_id']} ({raw['name']})" for raw in found or stores.campaigns.query(limit=10))
    if found:
        raise ConfigError(f"campaign {name!r} may be any of {listed}; give the id")
    raise ConfigError(
        f"campaign {name!r} is not in {describe_store(stores.campaigns)} (there: {listed or 'none'}); make one "
        "with: e3relax campaign new configs/campaign.yaml"
    )


def list_campaigns(stores: CampaignStores) -> list[CampaignDoc]:
    """All campaigns, the latest last."""
    campaigns = [validate_document(raw, CampaignDoc, stores.campaigns) for raw in stores.campaigns.query()]
    return sorted(campaigns, key=lambda campaign: campaign.created)


def save_campaign(stores: CampaignStores, campaign: CampaignDoc) -> None:
    """Replace a stored campaign."""
    campaign.last_updated = now()
    stores.campaigns.update([dump_document(campaign)])
    logger.info(
        "campaign %s: %s%s", campaign.campaign_id, campaign.state, f" ({campaign.message})" if campaign.message else ""
    )


def end_campaign(
    stores: CampaignStores, campaign: CampaignDoc, state: CampaignState, message: str, reason: StopReason | None = None
) -> None:
    """Record that a campaign does not continue without the user, with the reason."""
    campaign.state, campaign.reason, campaign.message = state, reason, message
    save_campaign(stores, campaign)


def write_pool(
    stores: CampaignStores, campaign_id: str, candidates: Iterable[PackedCandidate], chunk_size: int
) -> tuple[int, int]:
    """Write the candidates of a campaign chunk by chunk, replacing those of an interrupted registration.

    Returns
    -------
    n_candidates, n_chunks
        Numbers of written candidates and chunks.
    """
    stores.pool.remove_docs({"campaign_id": campaign_id})
    stream, n_candidates, number = iter(candidates), 0, 0
    while part := list(islice(stream, chunk_size)):
        chunk = PoolChunk(
            chunk_key=f"{campaign_id}:{number}",
            campaign_id=campaign_id,
            number=number,
            ids=[candidate.id for candidate in part],
            structure_ids=[candidate.structure_id for candidate in part],
            n_electrons=[sum(unpack_structure(candidate.packed).atomic_numbers) for candidate in part],
            packed=[base64.b64encode(candidate.packed).decode() for candidate in part],
        )
        stores.pool.update([dump_document(chunk)])
        n_candidates, number = n_candidates + len(part), number + 1
    logger.info("campaign %s: a pool of %d candidates in %d chunks", campaign_id, n_candidates, number)
    return n_candidates, number


def read_pool_chunk(stores: CampaignStores, campaign_id: str, number: int) -> PoolChunk:
    """One chunk of the pool.

    Raises
    ------
    StoreError
        When it is not in the store.
    """
    raw = stores.pool.query_one({"chunk_key": f"{campaign_id}:{number}"})
    if raw is None:
        raise StoreError(
            f"chunk {number} of campaign {campaign_id} is not in {describe_store(stores.pool)}; workers must share "
            "their stores: compare `e3relax doctor` here and where the campaign was submitted"
        )
    return validate_document(raw, PoolChunk, stores.pool)


def list_pool(stores: CampaignStores, campaign_id: str) -> list[PoolChunk]:
    """All chunks of the pool in order, without their structures."""
    raws = stores.pool.query({"campaign_id": campaign_id}, list(NOT_PACKED))
    return sorted((validate_document(raw, PoolChunk, stores.pool) for raw in raws), key=lambda chunk: chunk.number)


def save_scores(stores: CampaignStores, scores: ScoreChunk) -> None:
    """Store scores; stored ones are not changed."""
    if write_documents(stores.scores, [dump_document(scores)]):
        logger.info("pool of campaign and model %s: chunk %d is scored", scores.group, scores.number)


def find_scores(stores: CampaignStores, campaign_id: str, model_id: str) -> dict[int, ScoreChunk]:
    """Scores by a model, by number of the chunk."""
    raws = stores.scores.query({"group": name_group(campaign_id, model_id)})
    found = (validate_document(raw, ScoreChunk, stores.scores) for raw in raws)
    return {scores.number: scores for scores in found}


def list_scored(stores: CampaignStores, campaign_id: str, model_id: str) -> set[int]:
    """Numbers of the chunks that a model has scored."""
    return {raw["number"] for raw in stores.scores.query({"group": name_group(campaign_id, model_id)}, ["number"])}


def name_group(campaign_id: str, model_id: str) -> str:
    """Common key of the scores of a pool by one model."""
    return f"{campaign_id}:{model_id}"


def save_phase(stores: CampaignStores, campaign_id: str, generation: int, phase: Phase, result: Result) -> Result:
    """Store the result of a phase and return the stored one, which is that of the first run."""
    document = {
        "phase_key": f"{campaign_id}:{generation}:{phase.value}",
        "campaign_id": campaign_id,
        "generation": generation,
        "phase": phase.value,
        "result": dump_document(result),
    }
    if write_documents(stores.phases, [document]):
        logger.info("generation %d of campaign %s: phase %s is done", generation, campaign_id, phase.value)
        return result
    raw = stores.phases.query_one({"phase_key": document["phase_key"]})
    return type(result).model_validate(raw["result"]) if raw else result


def load_generations(stores: CampaignStores, campaign_id: str) -> list[GenerationDoc]:
    """All generations in order, each with the results of the phases that are done; none of an unknown campaign.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from e3relax_flows import isolate_stores, load_generations, open_campaign_stores, run_campaign
    >>> from e3relax_flows.testing import prepare_campaign
    >>> settings = isolate_stores(Path(tempfile.mkdtemp()))
    >>> campaign = run_campaign(prepare_campaign(settings), settings, Path("runs/campaign"))
    >>> with open_campaign_stores(settings) as stores:
    ...     (generation,) = load_generations(stores, campaign.campaign_id)
    >>> generation.n_labels, str(generation.phases[-1])
    (1, 'conclude')
    """
    found: dict[int, dict[str, Any]] = {}
    for raw in stores.phases.query({"campaign_id": campaign_id}):
        if raw["phase"] != STOP:
            found.setdefault(raw["generation"], {})[raw["phase"]] = raw["result"]
    return [
        GenerationDoc.model_validate({"campaign_id": campaign_id, "generation": number, **found[number]})
        for number in sorted(found)
    ]


def load_generation(stores: CampaignStores, campaign_id: str, generation: int) -> GenerationDoc:
    """One generation, with the results of the phases that are done."""
    raws = stores.phases.query({"campaign_id": campaign_id, "generation": generation})
    results = {raw["phase"]: raw["result"] for raw in raws}
    return GenerationDoc.model_validate({"campaign_id": campaign_id, "generation": generation, **results})


def request_stop(stores: CampaignStores, campaign_id: str) -> None:
    """Request that a campaign stops before its next phase."""
    document = {"phase_key": f"{campaign_id}:{STOP}", "campaign_id": campaign_id, "generation": -1, "phase": STOP}
    if write_documents(stores.phases, [document]):
        logger.info("campaign %s: to stop before its next phase", campaign_id)


def withdraw_stop(stores: CampaignStores, campaign_id: str) -> None:
    """Withdraw the request to stop."""
    stores.phases.remove_docs({"phase_key": f"{campaign_id}:{STOP}"})
    logger.info("campaign %s: to go on", campaign_id)


def is_stop_requested(stores: CampaignStores, campaign_id: str) -> bool:
    """Whether a stop was requested."""
    return stores.phases.query_one({"phase_key": f"{campaign_id}:{STOP}"}, ["phase"]) is not None
