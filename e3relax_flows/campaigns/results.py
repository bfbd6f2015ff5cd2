"""The steps of a generation after its labels: pairs, training data, the decision of the gate, and the figures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from maggma.utils import grouper

from e3relax_flows.campaigns.generation import enter_phase
from e3relax_flows.campaigns.rules import measure_ratio, measure_saved, sum_hours
from e3relax_flows.campaigns.store import (
    end_campaign,
    load_generations,
    open_campaign_stores,
    save_phase,
)
from e3relax_flows.core.errors import TooFewPairsError
from e3relax_flows.ledger.workspace import Workspace, open_workspace
from e3relax_flows.pairs.builder import build_outcome_pair
from e3relax_flows.pairs.dataset_store import find_holdout, open_dataset_stores
from e3relax_flows.pairs.prediction_index import PredictionIndex
from e3relax_flows.pairs.sources import BuiltBefore, iter_outcomes
from e3relax_flows.pairs.store import PairWriter, find_records, open_pair_stores
from e3relax_flows.registry.judgements import find_evaluation, open_judgements
from e3relax_flows.registry.store import find_alias
from e3relax_flows.retraining.training import take_snapshot
from e3relax_flows.schemas.campaigns import (
    Arm,
    CampaignConfig,
    CampaignState,
    ConcludeResult,
    GenerationDoc,
    Interval,
    Label,
    PairsResult,
    Phase,
    RetrainResult,
)
from e3relax_flows.schemas.models import EvaluatedPair, identify_evaluation
from e3relax_flows.schemas.outcomes import OutcomeState, StartKind
from e3relax_flows.schemas.retraining import RetrainConfig, RetrainDoc, SnapshotDoc
from e3relax_flows.stores.pool import SettingsLike

if TYPE_CHECKING:
    from numpy.typing import NDArray

PAIRS_JOB, RETRAIN_JOB, CONCLUDE_JOB = "e3r pairs", "e3r retrain", "e3r conclude"
AT_ONCE = 100  # outcomes in memory
N_RESAMPLES, ENDS = 10_000, (0.025, 0.975)


def build_label_pairs(campaign_id: str, generation: int, start: int, workspace: Workspace) -> PairsResult | None:
    """Make pairs of the labels of a generation; None if the phase must not run."""
    stores = workspace.get(open_campaign_stores)
    entered = enter_phase(stores, campaign_id, generation, start, Phase.LABEL)
    if entered is None:
        return None
    campaign, document = entered
    if document.pairs is not None or document.label is None:
        return document.pairs
    ids = [label.outcome_id for label in document.label.labels if label.state is not None]
    result = build_pairs(ids, campaign.config.source, workspace)
    return save_phase(stores, campaign_id, generation, Phase.PAIRS, result)


def build_pairs(outcome_ids: list[str], source: str, settings: SettingsLike) -> PairsResult:
    """Make pairs of some outcomes, as `e3relax data build` does for all; existing ones are reused.

    Raises
    ------
    ConfigError, StoreError
        When a store is described wrongly, or cannot be reached.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from e3relax_flows import (
    ...     build_campaign_pairs, isolate_stores, load_generations, open_campaign_stores, run_campaign
    ... )
    >>> from e3relax_flows.testing import prepare_campaign
    >>> settings = isolate_stores(Path(tempfile.mkdtemp()))
    >>> campaign = run_campaign(prepare_campaign(settings), settings, Path("runs/campaign"))
    >>> with open_campaign_stores(settings) as stores:
    ...     (generation,) = load_generations(stores, campaign.campaign_id)
    >>> outcome_ids = [label.outcome_id for label in generation.label.labels]
    >>> len(build_campaign_pairs(outcome_ids, "screen", settings).pair_ids)  # that which the campaign has made
    1
    """
    with open_workspace(settings) as workspace:
        targets, index = workspace.get(open_pair_stores), PredictionIndex(workspace.predictions)
        before = BuiltBefore(targets.records, index.count)
        writer = PairWriter(targets)
        for items in grouper(iter_outcomes(workspace.outcomes, index, before, source, outcome_ids), AT_ONCE):
            writer.write([build_outcome_pair(item) for item in items])
        records = find_records(targets.records, outcome_ids)
    pair_ids = {record.pair_id for record in records.values() if record.pair_id}
    counts = {str(name): count for name, count in sorted(writer.counts.items())}
    return PairsResult(pair_ids=sorted(pair_ids), counts=counts)


def prepare_retraining(
    campaign_id: str, generation: int, start: int, config: RetrainConfig, workspace: Workspace
) -> SnapshotDoc | RetrainResult | None:
    """Choose the training data once; or return that there are none, or the result of the retraining.

    Raises
    ------
    ConfigError
        When a holdout is missing, or functionals would be mixed.
    """
    stores = workspace.get(open_campaign_stores)
    entered = enter_phase(stores, campaign_id, generation, start, Phase.PAIRS)
    if entered is None:
        return None
    _, document = entered
    if document.retrain is not None or document.pairs is None or document.begin is None:
        return document.retrain
    if document.snapshot is not None:
        return document.snapshot
    try:
        if not document.pairs.pair_ids:
            raise TooFewPairsError("no label gave a pair")
        snapshot = take_snapshot(config, document.begin.model_id, workspace)
    except TooFewPairsError as error:  # the labels are kept; with the next ones there may be enough
        result = RetrainResult(message=f"nothing was trained: {error}")
        return save_phase(stores, campaign_id, generation, Phase.RETRAIN, result)
    return save_phase(stores, campaign_id, generation, Phase.SNAPSHOT, snapshot)


def conclude_generation(
    campaign_id: str, generation: int, start: int, retraining: RetrainDoc | None, workspace: Workspace
) -> GenerationDoc | None:
    """Store the result of the retraining and the figures of the generation; None if the campaign does not continue."""
    stores = workspace.get(open_campaign_stores)
    entered = enter_phase(stores, campaign_id, generation, start, Phase.PAIRS)
    if entered is None:
        return None
    campaign, document = entered
    if document.retrain is None and retraining is None:
        message = (
            f"the retraining of generation {generation} failed: see the errors of its jobs, fix the cause and "
            f"run `e3relax campaign resume {campaign_id}`; no label is lost"
        )
        end_campaign(stores, campaign, CampaignState.HALTED, message)
        return None
    if document.retrain is None and retraining is not None:
        result = describe_retraining(retraining, workspace)
        document.retrain = save_phase(stores, campaign_id, generation, Phase.RETRAIN, result)
    if document.conclude is None:
        generations = load_generations(stores, campaign_id)
        figures = measure_generation(generations[: generation + 1], campaign.config, workspace)
        document.conclude = save_phase(stores, campaign_id, generation, Phase.CONCLUDE, figures)
    return document


def describe_retraining(document: RetrainDoc, workspace: Workspace) -> RetrainResult:
    """Result of a retraining; a promotion counts even if the alias has moved since."""
    alias = find_alias(document.alias, workspace)
    moved = any(
        move.gate_id == document.gate_id and move.model_id == document.challenger_id
        for move in (alias.history if alias else [])
    )
    return RetrainResult(
        challenger_id=document.challenger_id,
        gate_id=document.gate_id,
        decision=document.decision,
        promoted=document.promoted or moved,
        hours=sum(training.hours for training in document.trainings),
        message="; ".join([*document.reasons[:1], *([document.message] if document.message else [])]),
    )


def measure_generation(
    generations: list[GenerationDoc], config: CampaignConfig, workspace: Workspace
) -> ConcludeResult:
    """The figures of the last of these generations."""
    document, rules = generations[-1], config.stop
    before = document.begin.model_id if document.begin else ""
    retrain = document.retrain
    after = retrain.challenger_id if retrain and retrain.promoted and retrain.challenger_id else before
    error_before, identity = measure_holdout(before, config.retraining, workspace)
    error = error_before if after == before else measure_holdout(after, config.retraining, workspace)[0]
    random = list_random_labels(document)
    ratio = measure_ratio(generations)
    saved = measure_saved(document, ratio)
    return ConcludeResult(
        model_id=after,
        error=error,
        error_before=error_before,
        identity_error=identity,
        random_error=average([label.prediction_error for label in random if label.prediction_error is not None]),
        random_identity_error=average([label.initial_error for label in random if label.initial_error is not None]),
        dft_hours=rules.cores * sum_hours(document),
        control_ratio=ratio,
        saved_hours=None if saved is None else rules.cores * saved,
    )


def measure_holdout(
    model_id: str, config: RetrainConfig, workspace: Workspace
) -> tuple[Interval | None, Interval | None]:
    """Error of a model and of the initial structures on the holdout; None if it was not evaluated."""
    holdout_id = find_holdout(workspace.get(open_dataset_stores), config.holdout).holdout_id
    wanted = identify_evaluation(model_id, holdout_id, config.options)
    found = find_evaluation(workspace.get(open_judgements), wanted)
    if found is None:
        return None, None
    errors, identity = zip(*map(combine_row, found.rows), strict=True)
    groups = [row.group for row in found.rows]
    names = None if None in groups else np.array(groups)
    return average(list(errors), names), average(list(identity), names)


def combine_row(row: EvaluatedPair) -> tuple[float, float]:
    """Errors, Å, of the prediction and of the initial structure; without prediction both are the latter's."""
    from e3relax_flows.train.metrics import combine_errors

    own, identity = combine_errors(
        np.array(
            [
                (row.displacement, row.strain),
                (row.identity_displacement, row.identity_strain),
            ],
            dtype=float,
        )
    )
    return float(identity if np.isnan(own) else own), float(identity)


def list_random_labels(document: GenerationDoc) -> list[Label]:
    """Converged labels of the random arm, one for each structure."""
    if document.select is None or document.label is None:
        return []
    drawn = {one.structure_id for one in document.select.selected if one.arm == Arm.RANDOM}
    found: dict[str, Label] = {}
    for label in document.label.labels:
        if label.structure_id not in drawn or label.state != OutcomeState.SUCCESSFUL:
            continue
        # of a pair of relaxations, the one that is not the control
        if label.structure_id not in found or label.start_kind != StartKind.CONTROL:
            found[label.structure_id] = label
    return list(found.values())


def average(values: list[float], groups: NDArray[np.str_] | None = None) -> Interval | None:
    """Mean with its bootstrap 95 % interval; groups are drawn again together; None for an empty list."""
    from e3relax_flows.judging.bootstrap import draw_sums

    if not values:
        return None
    mean = float(np.mean(values))
    if len(values) < 2:
        return Interval(mean=mean, n=len(values))
    columns = np.stack([np.array(values), np.ones(len(values))])
    (sums, counts), _ = draw_sums(columns, groups, N_RESAMPLES, "campaign")
    low, high = np.quantile(sums / counts, ENDS)
    return Interval(mean=mean, low=float(low), high=float(high), n=len(values))
