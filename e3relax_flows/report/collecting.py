"""Find the documents of a page in the stores, without torch, so that login nodes can run it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from e3relax_flows.core.errors import ModelError
from e3relax_flows.core.model_folders import ALIASES, CARD_FILE, find_model
from e3relax_flows.core.settings import DATA_FILE
from e3relax_flows.ledger.frames import outcomes_dataframe
from e3relax_flows.ledger.store import find_outcomes, find_predictions
from e3relax_flows.ledger.workspace import Workspace
from e3relax_flows.pairs.store import open_pair_store
from e3relax_flows.registry.judgements import (
    find_evaluations,
    find_gates,
    has_judgements,
    match_challenger,
    open_judgements,
)
from e3relax_flows.registry.models import locate_model
from e3relax_flows.registry.store import list_aliases
from e3relax_flows.report.model_figures import TrustRow
from e3relax_flows.report.model_page import ModelDocuments
from e3relax_flows.report.screen_page import ScreenDocuments
from e3relax_flows.schemas.models import EvaluationDoc, GateDoc
from e3relax_flows.schemas.screens import ScreenDoc
from e3relax_flows.stores.opening import IDS_PER_QUERY

PART = 500  # documents between two reports of progress
OnProgress = Callable[[int, int], None]


def collect_screen(screen: ScreenDoc, workspace: Workspace, on_progress: OnProgress | None = None) -> ScreenDocuments:
    """Predictions and outcomes that a screen names, and the thresholds of the guards of its models.

    Parameters
    ----------
    screen
        With its candidates.
    workspace
        With the stores.
    on_progress
        Called with the number of documents that were read, and of all.

    Raises
    ------
    ConfigError
        When a store is described wrongly.
    StoreError
        When a store cannot be reached, or holds invalid documents.
    """
    prediction_ids = [row.prediction_id for row in screen.candidates if row.prediction_id]
    outcome_ids = [outcome.outcome_id for row in screen.candidates for outcome in row.outcomes]
    total = len(prediction_ids) + len(outcome_ids)

    def read(ids: Sequence[str], find: Callable[[list[str]], dict[str, Any]], done: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for start in range(0, len(ids), PART):
            found |= find(list(ids[start : start + PART]))
            if on_progress is not None:
                on_progress(done + min(start + PART, len(ids)), total)
        return found

    predictions = read(prediction_ids, lambda ids: find_predictions(workspace.predictions, ids), 0)
    outcomes = read(outcome_ids, lambda ids: find_outcomes(workspace.outcomes, ids), len(prediction_ids))
    models = sorted({prediction.model_id for prediction in predictions.values()})
    limits = {model_id: find_thresholds(model_id, workspace) for model_id in models}
    return ScreenDocuments(predictions, outcomes, limits)


def find_thresholds(model_id: str, workspace: Workspace) -> dict[str | None, float]:
    """Largest probabilities of harm that a model's calibration accepts, by potential of the second opinion.

    None stands for the guard alone. Empty if the model is not found.
    """
    try:
        model = locate_model(model_id, workspace)
    except ModelError:
        return {}
    config = model.doc.config if model.doc else model.folder.config if model.folder else {}
    calibration = config.get("calibration") or {}
    entries = {None: calibration.get("trust") or {}, **(calibration.get("second_opinions") or {})}
    return {name: float(entry["max_harm"]) for name, entry in entries.items() if "max_harm" in entry}


def collect_model(spec: str, workspace: Workspace) -> ModelDocuments:
    """Documents of a model: folder, registry, evaluations, gates, and results of its predictions.

    Parameters
    ----------
    spec
        Alias, name, id or folder.
    workspace
        With the stores.

    Raises
    ------
    ModelError
        When no model or more than one model matches `spec`.
    StoreError
        When a store cannot be reached, or holds invalid documents.
    """
    model = locate_model(spec, workspace)
    evaluations, gates = _find_judgements(model.model_id, workspace)
    card = model.folder.path / CARD_FILE if model.folder else None
    text = model.doc.card if model.doc else card.read_text(encoding="utf-8") if card and card.exists() else ""
    return ModelDocuments(
        model_id=model.model_id,
        name=model.name,
        config=model.doc.config if model.doc else model.folder.config if model.folder else {},
        card=text,
        doc=model.doc,
        aliases=_find_aliases(model.model_id, workspace),
        evaluations=evaluations,
        gates=gates,
        systems=_find_systems(evaluations[-1], workspace) if evaluations else {},
        trust=_find_trust(model.model_id, workspace),
    )


def find_gates_by_id(ids: Sequence[str], workspace: Workspace) -> dict[str, GateDoc]:
    """The stored ones of the gates, by id."""
    if not ids or not has_judgements(workspace.settings):
        return {}
    return {gate.gate_id: gate for gate in find_gates(workspace.get(open_judgements), {"gate_id": {"$in": list(ids)}})}


def _find_judgements(model_id: str, workspace: Workspace) -> tuple[list[EvaluationDoc], list[GateDoc]]:
    """Evaluations of a model, and gates in which it was challenger or incumbent."""
    if not has_judgements(workspace.settings):
        return [], []
    stores = workspace.get(open_judgements)
    gates = find_gates(stores, {"$or": [match_challenger(model_id), {"incumbent_id": model_id}]})
    return find_evaluations(stores, {"model_id": model_id}), gates


def _find_aliases(model_id: str, workspace: Workspace) -> list[str]:
    meanings = {alias: find_model(alias).model_id for alias in ALIASES}
    meanings |= {doc.name: doc.model_id for doc in list_aliases(workspace)}
    return sorted(alias for alias, meant in meanings.items() if meant == model_id)


def _find_systems(evaluation: EvaluationDoc, workspace: Workspace) -> dict[str, str]:
    """Chemical systems of the pairs of an evaluation, by pair id."""
    if workspace.settings.PAIR_STORE is None and not (workspace.settings.DATA_DIR / DATA_FILE).exists():
        return {}
    ids = [row.pair_id for row in evaluation.rows]
    systems: dict[str, str] = {}
    store = workspace.get(open_pair_store)
    for start in range(0, len(ids), IDS_PER_QUERY):
        query = {"pair_id": {"$in": ids[start : start + IDS_PER_QUERY]}}
        systems |= {
            raw["pair_id"]: raw["chemical_system"] for raw in store.query(query, ["pair_id", "chemical_system"])
        }
    return systems


def _find_trust(model_id: str, workspace: Workspace) -> list[TrustRow]:
    """Expected and true errors of a model's predictions that have a converged relaxation."""
    if workspace.settings.OUTCOME_STORE is None and not (workspace.settings.DATA_DIR / DATA_FILE).exists():
        return []
    query = {"model_id": model_id, "state": "successful"}
    frame = outcomes_dataframe(workspace.outcomes, query, workspace.predictions)
    frame = frame.dropna(subset=["predicted_error", "initial_error"]).drop_duplicates("prediction_id")
    expected = ["expected_error", "error_low", "error_high", "harm_probability"]
    columns = [*expected, "predicted_error", "initial_error", "expected_saving"]
    rows = frame[columns].astype(object).where(frame[columns].notna(), None)
    return [TrustRow(*values) for values in rows.itertuples(index=False, name=None)]
