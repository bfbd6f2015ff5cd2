"""Store evaluations and gates of models."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from maggma.core import Store

from e3relax_flows.core.settings import E3RelaxSettings
from e3relax_flows.registry.location import MODEL_COLLECTION, has_collection, name_collections
from e3relax_flows.schemas.models import EvaluationDoc, GateDoc
from e3relax_flows.stores.opening import (
    dump_document,
    open_store,
    validate_document,
    write_documents,
)
from e3relax_flows.stores.pool import shared

EVALUATIONS_ENDING, GATES_ENDING = "_evaluations", "_gates"


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class JudgementStores:
    """Evaluations and gates; connected."""

    evaluations: Store
    gates: Store


@shared
@contextmanager
def open_judgements(settings: E3RelaxSettings) -> Iterator[JudgementStores]:
    """Both stores, at MODEL_STORE; connected, closed at the end.

    Raises
    ------
    ConfigError
        When the store is described wrongly.
    StoreError
        When a store cannot be reached.

    Examples
    --------
    >>> from e3relax_flows import load_settings, open_judgements
    >>> with open_judgements(load_settings()) as stores:
    ...     print(stores.evaluations.count(), stores.gates.count())
    0 0
    """
    with (
        open_store(
            settings, "MODEL_STORE", MODEL_COLLECTION, "evaluation_id", ["holdout_id"], EVALUATIONS_ENDING
        ) as evaluations,
        open_store(
            settings, "MODEL_STORE", MODEL_COLLECTION, "gate_id", ["holdout_id", "challenger_id"], GATES_ENDING
        ) as gates,
    ):
        yield JudgementStores(evaluations, gates)


def has_judgements(settings: E3RelaxSettings) -> bool:
    """Whether there may be gates; the check creates no files."""
    return has_collection(settings, name_collections(settings)[0] + GATES_ENDING)


def save_evaluation(stores: JudgementStores, doc: EvaluationDoc) -> None:
    """Store an evaluation; a stored one stays as it is."""
    if write_documents(stores.evaluations, [dump_document(doc)]):
        logger.info("evaluation %s: model %s on holdout %s", doc.evaluation_id, doc.model_id, doc.holdout_id)


def find_evaluation(stores: JudgementStores, evaluation_id: str) -> EvaluationDoc | None:
    """The evaluation of an id, if it was made."""
    raw = stores.evaluations.query_one({"evaluation_id": evaluation_id})
    return None if raw is None else validate_document(raw, EvaluationDoc, stores.evaluations)


def find_evaluations(stores: JudgementStores, criteria: dict[str, Any]) -> list[EvaluationDoc]:
    """Evaluations that match, the oldest first."""
    docs = [validate_document(raw, EvaluationDoc, stores.evaluations) for raw in stores.evaluations.query(criteria)]
    return sorted(docs, key=lambda doc: doc.created_at)


def save_gate(stores: JudgementStores, doc: GateDoc) -> None:
    """Store a gate; a stored one stays as it is."""
    if write_documents(stores.gates, [dump_document(doc)]):
        logger.info(
            "gate %s: challenger %s against %s: %s", doc.gate_id, doc.challenger_id, doc.incumbent_id, doc.decision
        )


def find_gates(stores: JudgementStores, criteria: dict[str, Any]) -> list[GateDoc]:
    """Gates that match, the oldest first.

    Examples
    --------
    All judgements on one holdout; none so far:

    >>> from e3relax_flows import find_gates, load_settings, open_judgements
    >>> with open_judgements(load_settings()) as stores:
    ...     print(len(find_gates(stores, {"holdout_id": "an id"})))
    0
    """
    docs = [validate_document(raw, GateDoc, stores.gates) for raw in stores.gates.query(criteria)]
    return sorted(docs, key=lambda doc: doc.created_at)


def match_challenger(model_id: str) -> dict[str, Any]:
    """Criteria of the gates that judged a model; older documents call it a candidate."""
    return {"$or": [{"challenger_id": model_id}, {"candidate_id": model_id}]}


def count_looks(stores: JudgementStores, holdout_id: str, challenger_id: str) -> int:
    """Different challengers that were judged on a holdout, with this one."""
    gates = find_gates(stores, {"holdout_id": holdout_id})
    return len({challenger_id, *(gate.challenger_id for gate in gates)})
