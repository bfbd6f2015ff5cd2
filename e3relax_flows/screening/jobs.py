"""Jobs of screens in the store: predict a chunk, claim a candidate; they get ids, and read the rest from stores."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any

from jobflow import Job, JobConfig, Maker, Response, job

from e3relax_flows.candidates.ranking import measure_change
from e3relax_flows.core.errors import ConfigError, StoreError
from e3relax_flows.core.logs import format_counts
from e3relax_flows.ledger.claims import BEGIN_KEY
from e3relax_flows.ledger.store import find_predictions
from e3relax_flows.ledger.workspace import open_workspace
from e3relax_flows.prerelax.predict import PREDICT_JOB, predict_stored
from e3relax_flows.prerelax.relax import CLAIM_JOB, claim_and_relax
from e3relax_flows.prerelax.starts import describe_prediction
from e3relax_flows.schemas.outcomes import OutcomeDoc, StartKind
from e3relax_flows.schemas.predictions import PredictionDoc, Verdict
from e3relax_flows.schemas.screens import CandidateState, ScreenDoc, ScreenRow
from e3relax_flows.screening.states import Event, advance
from e3relax_flows.screening.store import find_rows, find_screen, open_screen_stores, read_chunk, save_rows
from e3relax_flows.stores.decoding import decode_as
from e3relax_flows.stores.opening import describe_store

UNRANKED = 1e12  # of candidates without a score: after all others

logger = logging.getLogger(__name__)


def read_maker(screen: ScreenDoc) -> Any:
    """The ScreenMaker of a screen.

    Raises
    ------
    ConfigError
        When it cannot be decoded, or holds more than values of installed packages.
    """
    maker = decode_as(screen.maker, Maker, what := f"the maker of screen {screen.screen_id}")
    if type(maker).__name__ != "ScreenMaker":
        raise ConfigError(f"{what} is a {type(maker).__name__} and not a ScreenMaker; another program wrote it")
    return maker


@job(name=PREDICT_JOB)
def predict_chunk(screen_id: str, number: int) -> dict[str, int]:
    """Predict the structures of one chunk, and write the results into their rows; return numbers only."""
    with open_workspace() as workspace:
        stores = workspace.get(open_screen_stores)
        screen = find_screen(stores, screen_id)
        if number >= screen.n_chunks:  # of duplicate structures
            return {"n_predicted": 0, "n_reused": 0}
        chunk, maker = read_chunk(stores, screen_id, number), read_maker(screen)
        prerelax = maker.prerelax
        documents, n_reused = predict_stored(
            chunk.unpack(), chunk.ids, screen.model, prerelax.device, prerelax.options, workspace
        )
        rows = {row.id: row for row in find_rows(stores, screen_id, [CandidateState.WAITING], {"chunk": number})}
        changed = [
            _write_prediction(rows[str(document.id)], document, by_change=maker.order == "change")
            for document in documents
            if document.id in rows
        ]
        save_rows(stores, changed, [CandidateState.WAITING])
        verdicts = Counter(str(document.verdict) for document in documents)
        logger.info(
            "chunk %d of screen %s: predicted, %s; %d were known", number, screen_id, format_counts(verdicts), n_reused
        )
    return {"n_predicted": len(documents), "n_reused": n_reused}


def _write_prediction(row: ScreenRow, document: PredictionDoc, by_change: bool) -> ScreenRow:
    row = row.model_copy(update=describe_prediction(document))
    advance(row, Event.LOSE_PREDICTION if document.verdict == Verdict.ERROR else Event.PREDICT)
    if by_change:
        change = measure_change(document)
        row.rank = UNRANKED if change is None else change
    return row


def claim_candidate(row: ScreenRow, kind: StartKind, retry_failed: bool) -> Job:
    """Build the job that relaxes a candidate once from one start; see `claim_relaxation`."""
    claim = relax_candidate(row.screen_id, str(row.prediction_id), kind, row.id, retry_failed)
    claim.update_metadata(
        {
            "screen_id": row.screen_id,
            "prediction_id": row.prediction_id,
            "structure_id": row.structure_id,
            "start_kind": kind.value,
            "candidate": row.id,
        }
    )
    claim.metadata[BEGIN_KEY] = True
    return claim


@job(name=CLAIM_JOB, config=JobConfig(pass_manager_config=False))
def relax_candidate(
    screen_id: str, prediction_id: str, kind: StartKind, name: str, retry_failed: bool
) -> OutcomeDoc | Response[Any] | None:
    """Claim the relaxation of a candidate and be replaced by it.

    Raises
    ------
    StoreError
        When the prediction is not in the store.
    """
    with open_workspace() as workspace:
        screen = find_screen(workspace.get(open_screen_stores), screen_id)
        prediction = find_predictions(workspace.predictions, [prediction_id]).get(prediction_id)
        if prediction is None:
            raise StoreError(
                f"prediction {prediction_id!r} is not in {describe_store(workspace.predictions)}; all workers must "
                "share their stores: compare `e3relax doctor` on them"
            )
        prediction = prediction.model_copy(update={"id": name})
        return claim_and_relax(read_maker(screen).engine, prediction, StartKind(kind), retry_failed)
