"""The steps of a campaign's generation; each checks first whether it was done, and is done once."""

from __future__ import annotations

import base64
import logging
from collections.abc import Sequence
from datetime import UTC
from typing import TYPE_CHECKING

import numpy as np

from e3relax_flows.campaigns.rules import decide_stop, measure_progress
from e3relax_flows.campaigns.selection import Pool, choose_candidates, estimate_costs
from e3relax_flows.campaigns.store import (
    CampaignStores,
    PoolChunk,
    ScoreChunk,
    end_campaign,
    find_campaign,
    find_scores,
    is_stop_requested,
    list_pool,
    load_generation,
    load_generations,
    name_group,
    open_campaign_stores,
    read_pool_chunk,
    save_phase,
    save_scores,
)
from e3relax_flows.core.errors import StoreError
from e3relax_flows.core.geometry import STRAIN_WEIGHT_ANGSTROM
from e3relax_flows.ledger.claims import find_claims, is_live
from e3relax_flows.ledger.store import find_outcomes, find_predictions
from e3relax_flows.ledger.workspace import Workspace
from e3relax_flows.prerelax.predict import predict_stored
from e3relax_flows.prerelax.starts import StartRules, choose_starts
from e3relax_flows.registry.models import resolve_model
from e3relax_flows.schemas.campaigns import (
    BeginResult,
    CampaignConfig,
    CampaignDoc,
    CampaignState,
    GenerationDoc,
    Label,
    LabelResult,
    Phase,
    PredictResult,
    SelectedCandidate,
    SelectResult,
    StopReason,
)
from e3relax_flows.schemas.outcomes import OutcomeDoc, StartKind, StructureErrors, identify_outcome
from e3relax_flows.schemas.predictions import PredictionDoc, Verdict

if TYPE_CHECKING:
    from numpy.typing import NDArray

GENERATION_JOB, SELECT_JOB, LABEL_JOB, GATHER_JOB = "e3r generation", "e3r select", "e3r label", "e3r gather"

logger = logging.getLogger(__name__)


def enter_phase(
    stores: CampaignStores, campaign_id: str, generation: int, start: int, before: Phase | None
) -> tuple[CampaignDoc, GenerationDoc] | None:
    """Input of a phase; None if it must not run.

    A phase must not run if a user stopped the campaign, it was resumed elsewhere, or it has ended; nor if the phase
    before has no result, which halts the campaign.

    Parameters
    ----------
    start
        Number of the start of the campaign to which the job belongs.
    before
        The phase that must be done.
    """
    campaign = find_campaign(stores, campaign_id)
    if campaign.n_starts != start or campaign.state not in (CampaignState.NEW, CampaignState.RUNNING):
        return None
    if is_stop_requested(stores, campaign_id):
        end_campaign(stores, campaign, CampaignState.STOPPED, "a user stopped it", StopReason.PERSON)
        return None
    document = load_generation(stores, campaign_id, generation)
    if before is not None and before not in document.phases:
        message = (
            f"phase {before} of generation {generation} has no result: see the errors of its jobs, fix the cause "
            f"and run `e3relax campaign resume {campaign_id}`"
        )
        end_campaign(stores, campaign, CampaignState.HALTED, message)
        return None
    return campaign, document


def begin_generation(campaign_id: str, start: int, workspace: Workspace) -> tuple[int, str] | None:
    """Begin the next generation, or continue the present one; None if the campaign ends here.

    Returns
    -------
    generation, model_id
        Its number and the model in service, as it was when it began.
    """
    stores = workspace.get(open_campaign_stores)
    campaign = find_campaign(stores, campaign_id)
    if campaign.n_starts != start or campaign.state not in (CampaignState.NEW, CampaignState.RUNNING):
        return None
    generations = load_generations(stores, campaign_id)
    number = next((item.generation for item in generations if item.conclude is None), len(generations))
    n_left = campaign.n_pool - sum(item.n_labels for item in generations)
    begun = generations[number].begin if number < len(generations) else None
    wants_end = is_stop_requested(stores, campaign_id)
    progress = measure_progress(generations, campaign.config.stop, n_left, wants_end)
    stop = decide_stop(campaign.config.stop, progress)
    # a generation that was begun is finished, unless a user stopped it
    if stop is not None and (begun is None or stop.reason == StopReason.PERSON):
        state = CampaignState.STOPPED if stop.reason == StopReason.PERSON else CampaignState.FINISHED
        logger.info("campaign %s: ends before generation %d", campaign_id, number)
        end_campaign(stores, campaign, state, stop.message, stop.reason)
        return None
    if begun is None:
        model = resolve_model(campaign.config.retraining.alias, workspace)
        result = BeginResult(model_id=model.model_id, n_left=n_left)
        begun = save_phase(stores, campaign_id, number, Phase.BEGIN, result)
    return number, begun.model_id


def score_chunk(campaign_id: str, model_id: str, number: int, config: CampaignConfig, workspace: Workspace) -> None:
    """Compute the expectations of a model for the candidates of one chunk; only numbers of predictions are kept."""
    from e3relax_flows.predict.predictor import Predictor

    group = name_group(campaign_id, model_id)
    stores = workspace.get(open_campaign_stores)
    if stores.scores.query_one({"score_key": f"{group}:{number}"}, ["score_key"]):
        return
    chunk = read_pool_chunk(stores, campaign_id, number)
    structures = [chunk.unpack(index) for index in range(len(chunk.ids))]
    folder = resolve_model(model_id, workspace)
    device = workspace.settings.DEVICE if config.device == "auto" else config.device
    predictor = Predictor.load(str(folder.path), device=device)
    predictions = predictor.predict(structures, config.options, ids=chunk.ids)
    known = [one for one in predictions if one.verdict != Verdict.ERROR]
    is_calibrated = all(one.expected_error is not None for one in known)
    scores = ScoreChunk(
        score_key=f"{group}:{number}",
        group=group,
        number=number,
        expected_errors=[
            prediction.expected_error if is_calibrated else prediction.score for prediction in predictions
        ],
        is_calibrated=is_calibrated,
    )
    if config.mix.diverse:
        embeddings = predictor.embed(structures)
        scores.n_channels = embeddings.shape[1]
        scores.embeddings = base64.b64encode(embeddings.astype("<f4").tobytes()).decode()
    save_scores(stores, scores)


def select_labels(campaign_id: str, generation: int, start: int, workspace: Workspace) -> SelectResult | None:
    """Choose the candidates to label in this generation; None if the campaign ends here."""
    stores = workspace.get(open_campaign_stores)
    entered = enter_phase(stores, campaign_id, generation, start, Phase.BEGIN)
    if entered is None:
        return None
    campaign, document = entered
    if document.select is not None:
        return document.select
    earlier = [item for item in load_generations(stores, campaign_id) if item.generation < generation]
    chunks = list_pool(stores, campaign_id)
    scores = find_scores(stores, campaign_id, document.begin.model_id) if document.begin else {}
    if not scores:
        message = f"no chunk of the pool could be scored in generation {generation}: see the errors of e3r predict"
        end_campaign(stores, campaign, CampaignState.HALTED, message)
        return None
    config = campaign.config
    budget = config.stop.labels
    spent = sum(item.n_labels for item in earlier)
    n = config.labels if budget is None else min(config.labels, budget - spent)
    result = _choose(config, generation, n, chunks, scores, earlier)
    if not result.selected:
        message = f"none of the {result.n_unpredictable} candidates that are left can be predicted"
        end_campaign(stores, campaign, CampaignState.FINISHED, message, StopReason.POOL_EMPTY)
        return None
    for selected in result.selected:
        logger.info("candidate %s of campaign %s: selected in generation %d", selected.id, campaign_id, generation)
    return save_phase(stores, campaign_id, generation, Phase.SELECT, result)


def _choose(
    config: CampaignConfig,
    generation: int,
    n: int,
    chunks: Sequence[PoolChunk],
    scores: dict[int, ScoreChunk],
    earlier: Sequence[GenerationDoc],
) -> SelectResult:
    positions = [(chunk.number, index) for chunk in chunks for index in range(len(chunk.ids))]
    names = [name for chunk in chunks for name in chunk.structure_ids]
    electrons = np.array([number for chunk in chunks for number in chunk.n_electrons], dtype=float)
    errors = np.concatenate(
        [
            np.array(scores[chunk.number].expected_errors, dtype=float)
            if chunk.number in scores
            else np.full(len(chunk.ids), np.nan)
            for chunk in chunks
        ]
    )
    index = {name: number for number, name in enumerate(names)}
    known = [
        (float(electrons[index[label.structure_id]]), label.hours)
        for item in earlier
        for label in (item.label.labels if item.label else [])
        if label.hours and label.structure_id in index
    ]
    costs = estimate_costs(electrons, known)
    taken = [index[one.structure_id] for item in earlier if item.select for one in item.select.selected]
    pool = Pool(names, errors, costs, _join_embeddings(chunks, scores))
    chosen = choose_candidates(pool, config.mix, n, (config.seed, str(generation)), config.scored_by, taken)
    is_left = np.ones(len(names), dtype=bool)
    is_left[taken] = False
    numbers = {chunk.number: chunk for chunk in chunks}
    selected = [
        SelectedCandidate(
            id=numbers[positions[one.index][0]].ids[positions[one.index][1]],
            structure_id=names[one.index],
            chunk=positions[one.index][0],
            place=positions[one.index][1],
            arm=one.arm,
            expected_error=float(errors[one.index]),
            cost=float(costs[one.index]),
            score=one.score,
            distance=one.distance,
        )
        for one in chosen
    ]
    return SelectResult(
        selected=selected,
        n_unpredictable=int((is_left & np.isnan(errors)).sum()),
        is_calibrated=all(item.is_calibrated for item in scores.values()),
    )


def _join_embeddings(chunks: Sequence[PoolChunk], scores: dict[int, ScoreChunk]) -> NDArray[np.float64] | None:
    """Embeddings of the whole pool, NaN for chunks without; None if no chunk has any."""
    parts = {number: rows for number, one in scores.items() if (rows := one.unpack_embeddings()) is not None}
    if not parts:
        return None
    width = max(rows.shape[1] for rows in parts.values())
    return np.concatenate([parts.get(chunk.number, np.full((len(chunk.ids), width), np.nan)) for chunk in chunks])


def predict_selected(campaign_id: str, generation: int, start: int, workspace: Workspace) -> PredictResult | None:
    """Predict the chosen candidates, and store the predictions; None if the phase must not run."""
    stores = workspace.get(open_campaign_stores)
    entered = enter_phase(stores, campaign_id, generation, start, Phase.SELECT)
    if entered is None:
        return None
    campaign, document = entered
    if document.predict is not None or document.select is None or document.begin is None:
        return document.predict
    selected = document.select.selected
    chunks = {number: read_pool_chunk(stores, campaign_id, number) for number in {one.chunk for one in selected}}
    structures = [chunks[one.chunk].unpack(one.place) for one in selected]
    config = campaign.config
    documents, _ = predict_stored(
        structures, [one.id for one in selected], document.begin.model_id, config.device, config.options, workspace
    )
    good = [one for one in documents if one.verdict != Verdict.ERROR]
    result = PredictResult(
        predictions={str(one.structure_id): one.prediction_id for one in good},
        verdicts={str(one.structure_id): one.verdict for one in documents if one.structure_id},
    )
    return save_phase(stores, campaign_id, generation, Phase.PREDICT, result)


def plan_labels(
    document: GenerationDoc, config: CampaignConfig, workspace: Workspace
) -> list[tuple[PredictionDoc, StartKind]]:
    """Predictions of the chosen candidates, in their order, with the starts of their relaxations.

    Raises
    ------
    StoreError
        When a prediction is not in the store.
    """
    if document.select is None or document.predict is None:
        return []
    rules = StartRules("initial", {"initial": config.control}, config.paired_controls, config.seed)
    wanted = document.predict.predictions
    found = find_predictions(workspace.predictions, wanted.values())
    if missing := [name for name in wanted.values() if name not in found]:
        raise StoreError(
            f"{len(missing)} predictions, such as {missing[0]!r}, are not in the prediction store; all workers must "
            "share their stores: compare `e3relax doctor` on them"
        )
    planned = []
    for one in document.select.selected:
        if one.structure_id in wanted:
            prediction = found[wanted[one.structure_id]].model_copy(update={"id": one.id})
            planned += [(prediction, kind) for kind in choose_starts(prediction, rules)]
    return planned


def gather_labels(
    campaign_id: str, generation: int, start: int, engine_id: str, workspace: Workspace
) -> LabelResult | None:
    """Read the outcomes of the relaxations; None if the phase must not run, or other flows still relax some.

    A relaxation without outcome that no flow runs counts as failed.
    """
    stores = workspace.get(open_campaign_stores)
    entered = enter_phase(stores, campaign_id, generation, start, Phase.PREDICT)
    if entered is None:
        return None
    campaign, document = entered
    if document.label is not None:
        return document.label
    planned = plan_labels(document, campaign.config, workspace)
    ids = [identify_outcome(one.prediction_id, engine_id, kind) for one, kind in planned]
    found = find_outcomes(workspace.outcomes, ids)
    missing = [name for name in ids if name not in found]
    held = [claim for claim in find_claims(workspace.claims, missing).values() if is_live(claim)]
    if held:
        message = (
            f"{len(held)} relaxations of generation {generation} are at other flows, such as {held[0].describe()}: "
            f"run `e3relax campaign resume {campaign_id}` when they are over; if they were lost on a launchpad, "
            "`e3relax screen recover` first"
        )
        end_campaign(stores, campaign, CampaignState.HALTED, message)
        return None
    labels = [
        _describe_label(name, one, kind, found.get(name), campaign)
        for name, (one, kind) in zip(ids, planned, strict=True)
    ]
    return save_phase(stores, campaign_id, generation, Phase.LABEL, LabelResult(labels=labels))


def _describe_label(
    outcome_id: str, prediction: PredictionDoc, kind: StartKind, outcome: OutcomeDoc | None, campaign: CampaignDoc
) -> Label:
    label = Label(outcome_id=outcome_id, structure_id=str(prediction.structure_id), start_kind=kind)
    if outcome is None:
        label.message = "its jobs left no outcome"
        return label
    label.state, label.message = outcome.state, outcome.message
    label.prediction_error, label.initial_error = map(_combine, (outcome.prediction_errors, outcome.initial_errors))
    label.hours = outcome.result.wall_time_s / 3600 if outcome.result and outcome.result.wall_time_s else None
    label.reused = outcome.last_updated.astimezone(UTC) < campaign.created.astimezone(UTC)
    return label


def _combine(errors: StructureErrors | None) -> float | None:
    return None if errors is None else errors.displacement + STRAIN_WEIGHT_ANGSTROM * errors.strain
