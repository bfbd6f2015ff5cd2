"""The stores of predictions and of outcomes."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from maggma.core import Store

from e3relax_flows.core.finite import find_not_finite
from e3relax_flows.core.settings import E3RelaxSettings
from e3relax_flows.schemas.outcomes import OutcomeDoc, OutcomeState
from e3relax_flows.schemas.predictions import PredictionDoc
from e3relax_flows.stores.opening import (
    dump_document,
    dump_finite,
    find_by_id,
    open_store,
    validate_document,
    write_documents,
)
from e3relax_flows.stores.pool import shared

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stores:
    """The two stores of a campaign, connected."""

    predictions: Store
    outcomes: Store


@shared
@contextmanager
def open_stores(settings: E3RelaxSettings) -> Iterator[Stores]:
    """Both stores, connected and closed at the end; `settings` are read if None.

    Raises
    ------
    ConfigError
        When a store is described wrongly.
    StoreError
        When a store cannot be reached.
    """
    with open_prediction_store(settings) as predictions, open_outcome_store(settings) as outcomes:
        yield Stores(predictions, outcomes)


@shared
def open_prediction_store(settings: E3RelaxSettings) -> Store:
    """The store of predictions, connected, with its indexes, closed at the end."""
    return open_store(settings, "PREDICTION_STORE", "predictions", "prediction_id", ["structure_id"])


@shared
def open_outcome_store(settings: E3RelaxSettings) -> Store:
    """The store of outcomes, connected, with its indexes, closed at the end."""
    return open_store(settings, "OUTCOME_STORE", "outcomes", "outcome_id", ["prediction_id", "structure_id"])


def save_predictions(store: Store, docs: Sequence[PredictionDoc]) -> int:
    """Write the predictions that are new, or whose stored second opinion failed; return the number written.

    An initial structure with coordinates that are not finite is not stored; the message of its prediction names them.
    """
    raws = [dump_document(doc) for doc in docs]
    for raw in raws:
        raw["initial"] = None if find_not_finite(raw["initial"]) else raw["initial"]
    n_written = write_documents(store, raws, {"second_opinion.failed": True})
    logger.info("predictions: %d of %d written, the others were there", n_written, len(docs))
    return n_written


def save_outcomes(store: Store, docs: Sequence[OutcomeDoc], replace_failed: bool = False) -> int:
    """Write the outcomes that are new, or with `replace_failed` are stored as failed; return the number written.

    Raises
    ------
    StoreError
        When a number is not finite, or the store fails.
    """
    replaceable = {"state": OutcomeState.FAILED.value} if replace_failed else None
    n_written = write_documents(store, [dump_finite(doc) for doc in docs], replaceable)
    if n_written:
        for doc in docs:
            logger.info(
                "outcome %s of candidate %s: %s, prediction %s, start %s, engine %s%s",
                doc.outcome_id, doc.id, doc.state, doc.prediction_id, doc.start_kind, doc.engine,
                f" ({doc.message})" if doc.message else "",
            )  # fmt: skip
    return n_written


def find_predictions(store: Store, ids: Iterable[str]) -> dict[str, PredictionDoc]:
    """Those predictions of `ids` that are in the store, by id, in the order of `ids`.

    Examples
    --------
    The predictions of some outcomes; none so far:

    >>> from e3relax_flows import find_outcomes, find_predictions, open_workspace
    >>> with open_workspace() as workspace:
    ...     outcomes = find_outcomes(workspace.outcomes)
    ...     predictions = find_predictions(workspace.predictions, {doc.prediction_id for doc in outcomes.values()})
    >>> len(outcomes), len(predictions)
    (0, 0)
    """
    return find_by_id(store, list(ids), PredictionDoc, "prediction_id", None)


def find_outcomes(
    store: Store, ids: Iterable[str] | None = None, criteria: dict[str, Any] | None = None
) -> dict[str, OutcomeDoc]:
    """Outcomes by id: those of `ids` (None: all) that match `criteria`.

    Examples
    --------
    All outcomes that failed, with their messages; none so far:

    >>> from e3relax_flows import find_outcomes, open_workspace
    >>> with open_workspace() as workspace:
    ...     failed = find_outcomes(workspace.outcomes, criteria={"state": "failed"})
    >>> {name: outcome.message for name, outcome in failed.items()}
    {}
    """
    if ids is not None:
        return find_by_id(store, list(ids), OutcomeDoc, "outcome_id", criteria)
    return {
        doc.outcome_id: doc
        for doc in (validate_document(raw, OutcomeDoc, store) for raw in store.query(criteria or {}))
    }
