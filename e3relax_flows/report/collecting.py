"""Find the documents of a page in the stores: on a login node, without torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from e3relax_flows.core.errors import ModelError
from e3relax_flows.core.settings import E3RelaxSettings
from e3relax_flows.data.registry import locate_model
from e3relax_flows.data.stores import find_outcomes, find_predictions, open_stores
from e3relax_flows.report.screenpage import ScreenDocuments
from e3relax_flows.schemas.screens import ScreenDoc

PART = 500  # documents between two reports of progress
OnProgress = Callable[[int, int], None]


def collect_screen(
    screen: ScreenDoc, settings: E3RelaxSettings, on_progress: OnProgress | None = None
) -> ScreenDocuments:
    """Predictions and outcomes that a screen names, and the thresholds of the guards of its models.

    Parameters
    ----------
    screen
        With its candidates.
    settings
        Where the stores are.
    on_progress
        Called with the number of documents that were read, and of all.

    Raises
    ------
    ConfigError
        When a store is described wrongly.
    StoreError
        When a store cannot be reached, or holds documents that are none.
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

    with open_stores(settings) as stores:
        predictions = read(prediction_ids, lambda ids: find_predictions(stores.predictions, ids), 0)
        outcomes = read(outcome_ids, lambda ids: find_outcomes(stores.outcomes, ids), len(prediction_ids))
    models = sorted({prediction.model_id for prediction in predictions.values()})
    limits = {model_id: find_threshold(model_id, settings) for model_id in models}
    return ScreenDocuments(predictions, outcomes, {name: limit for name, limit in limits.items() if limit is not None})


def find_threshold(model_id: str, settings: E3RelaxSettings) -> float | None:
    """Largest probability of harm that a model's calibration accepts; None where the model is not to be found."""
    try:
        model = locate_model(model_id, settings)
    except ModelError:
        return None
    config = model.doc.config if model.doc else model.folder.config if model.folder else {}
    return config.get("calibration", {}).get("trust", {}).get("max_harm")
