"""Read the sources of pairs in batches, and skip those that were built before."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from maggma.core import Store
from maggma.utils import grouper
from pydantic import ValidationError

from e3relax_flows.core.errors import EngineError
from e3relax_flows.core.ids import hash_content
from e3relax_flows.ledger.store import find_outcomes
from e3relax_flows.pairs.making import SCREEN_SOURCE
from e3relax_flows.pairs.prediction_index import PredictionIndex
from e3relax_flows.pairs.tasks import TASK_SOURCE, Predictions, TaskDocuments, TaskReader
from e3relax_flows.pairs.units import FORMAT, TaskEntry, TaskUnit, find_form, group_tasks, list_tasks
from e3relax_flows.schemas.outcomes import OutcomeDoc
from e3relax_flows.schemas.predictions import PredictionDoc

JOBS_PER_CHUNK = 100  # documents in memory at once; some 10 kB each after projection
KEPT_CHUNKS = 4  # prediction jobs whose output is kept, if their predictions are not in the prediction store


@dataclass(frozen=True)
class OutcomeDocuments:
    """An outcome and the prediction that it names; None if it is not in the store.

    Examples
    --------
    What `PairBuilder` makes a pair of:

    >>> from pymatgen.core import Lattice, Structure
    >>> from e3relax_flows import OutcomeDocuments
    >>> from e3relax_flows.testing import make_outcome
    >>> initial, relaxed = (Structure(Lattice.rhombohedral(a, 60), ["Cu"], [[0, 0, 0]]) for a in (2.7, 2.5))
    >>> prediction, outcome = make_outcome(initial, relaxed)
    >>> item = OutcomeDocuments(outcome, prediction, source="screen", fingerprint="of this outcome")
    >>> item.outcome.prediction_id == item.prediction.prediction_id
    True
    """

    outcome: OutcomeDoc
    prediction: PredictionDoc | None
    source: str
    fingerprint: str


class BuiltBefore:
    """The calculations that were built already, by the records.

    A relaxation with an unknown start is tried again when the size of the prediction store changes; the number of
    predictions is at the end of the fingerprint of such a record.

    Parameters
    ----------
    records
        The store of records, connected.
    n_predictions
        Number of documents in the prediction store.
    ignore
        Whether to build everything again.
    """

    def __init__(self, records: Store, n_predictions: int, ignore: bool = False) -> None:
        self._records = records
        self._n_predictions = n_predictions
        self._ignore = ignore

    def mark_unknown(self, fingerprint: str) -> str:
        """Fingerprint of a record whose start is not known."""
        return f"{fingerprint}-{self._n_predictions}"

    def find(self, wanted: Mapping[str, tuple[str, Sequence[str]]]) -> set[str]:
        """Keys of `wanted` that are completely recorded.

        Parameters
        ----------
        wanted
            By any key: the fingerprint, and the ids that records of this fingerprint must cover.
        """
        if self._ignore:
            return set()
        ids = [id for _, covered in wanted.values() for id in covered]
        found: dict[str, set[str]] = {}
        fields = ["origin_id", "fingerprint", "job_uuids"]
        for record in self._records.query({"origin_id": {"$in": ids}}, fields):
            covered = found.setdefault(record["fingerprint"], set())
            covered.update((record["origin_id"], *record["job_uuids"]))
        return {
            key
            for key, (print_, ids) in wanted.items()
            if any(found.get(name, set()).issuperset(ids) for name in (print_, self.mark_unknown(print_)))
        }


def iter_outcomes(
    outcomes: Store,
    predictions: PredictionIndex,
    before: BuiltBefore,
    source: str | None,
    ids: Collection[str] | None = None,
    labels: LabelSource | None = None,
) -> Iterator[OutcomeDocuments]:
    """Outcomes, all or those of `ids`, that were not built before, with their predictions.

    Those that an older release recorded get functional and conditions from their jobs by `labels`.
    """
    criteria = {} if ids is None else {"outcome_id": {"$in": list(ids)}}
    fields = ["outcome_id", "last_updated", "state"]
    listed = {raw["outcome_id"]: _stamp(raw) for raw in outcomes.query(criteria, fields)}
    for chunk in grouper(listed, JOBS_PER_CHUNK):
        done = before.find({id: (listed[id], [id]) for id in chunk})
        found = find_outcomes(outcomes, [id for id in chunk if id not in done])
        found = labels.relabel(found) if labels is not None else found
        loaded = predictions.load({doc.prediction_id for doc in found.values()})
        for id, doc in found.items():
            yield OutcomeDocuments(doc, loaded.get(doc.prediction_id), source or SCREEN_SOURCE, listed[id])


def list_covered(outcomes: Store) -> set[str]:
    """Uuids of the jobs that outcomes name."""
    return {uuid for raw in outcomes.query({}, ["job_uuids"]) for uuid in raw.get("job_uuids") or []}


class LabelSource:
    """The job store, for functional and conditions of outcomes that an older release recorded.

    Parameters
    ----------
    store
        Of jobs, connected.
    reader
        Reads one document.
    """

    def __init__(self, store: Store, reader: TaskReader) -> None:
        self._store = store
        self._reader = reader
        self._form = find_form(store)

    def relabel(self, outcomes: Mapping[str, OutcomeDoc]) -> dict[str, OutcomeDoc]:
        """Outcomes with functional, conditions and convergence as read today, if their jobs are in the store."""
        stale = [doc for doc in outcomes.values() if _is_stale(doc)]
        uuids = [uuid for doc in stale for uuid in doc.job_uuids]
        if not uuids or self._form.is_flat:
            return dict(outcomes)
        documents: dict[str, Any] = {}
        for raw in self._store.query({"uuid": {"$in": uuids}}, self._form.name_fields(self._reader.fields)):
            kept = documents.get(raw["uuid"])
            if kept is None or int(raw.get("index") or 1) > int(kept.get("index") or 1):
                documents[raw["uuid"]] = raw
        changed = {doc.outcome_id: self._relabel(doc, documents) for doc in stale}
        return {id: changed.get(id, doc) for id, doc in outcomes.items()}

    def _relabel(self, outcome: OutcomeDoc, documents: Mapping[str, Any]) -> OutcomeDoc:
        read = []
        for uuid in outcome.job_uuids:
            try:
                found = self._reader.read(self._form.get_output(documents.get(uuid, {})) or {})
            except EngineError:  # an unreadable job leaves the outcome as it is
                continue
            read += [found] if found is not None else []
        if outcome.result is None or not read or read[-1].code != outcome.result.code:
            return outcome
        last = read[-1]
        update = {name: getattr(last, name) for name in ("functional", "unnamed", "conditions", "free")}
        update |= {"functionals": [result.functional for result in read if result.functional]}
        update |= {"converged": outcome.result.converged and last.converged}
        return outcome.model_copy(update={"result": outcome.result.model_copy(update=update)})


def _is_stale(outcome: OutcomeDoc) -> bool:
    """Whether it was recorded by a release that did not read the conditions of a run."""
    return outcome.result is not None and "conditions" not in outcome.result.model_fields_set


class TaskSource:
    """The job store, with the links of its calculations to predictions.

    Parameters
    ----------
    store
        Of jobs or of task documents, connected.
    reader
        Reads one document.
    predictions
        The prediction store.
    covered
        Uuids of jobs that have outcomes.
    """

    def __init__(self, store: Store, reader: TaskReader, predictions: PredictionIndex, covered: set[str]) -> None:
        self._store = store
        self._reader = reader
        self._predictions = predictions
        self._covered = covered
        self._form = find_form(store)
        self._makers: dict[str, TaskEntry] = {}
        self._load_made = lru_cache(maxsize=KEPT_CHUNKS)(self._read_made)

    def iterate(self, before: BuiltBefore, source: str | None) -> Iterator[TaskDocuments]:
        """Units that were not built before, with their documents and predictions."""
        entries = list_tasks(self._store, self._form)
        self._makers = {id: entry for entry in entries for id in entry.made or ()}
        for units in _chunk(group_tasks(entries, self._covered)):
            prints = {unit.uuids[0]: (unit.fingerprint, unit.uuids) for unit in units}
            done = before.find(prints)
            todo = [unit for unit in units if unit.uuids[0] not in done]
            outputs = self._load([entry for unit in todo for entry in unit.entries])
            for unit in todo:
                mine = {uuid: outputs.pop(uuid, None) for uuid in unit.uuids}
                predictions = self._find_predictions(unit, mine)
                name = source or (SCREEN_SOURCE if unit.entries[0].prediction_id else TASK_SOURCE)
                yield TaskDocuments(unit, mine, predictions, name, unit.fingerprint)

    def _load(self, entries: Sequence[TaskEntry]) -> dict[str, Any]:
        """Outputs by uuid, of the listed runs."""
        if not entries:
            return {}
        wanted = {entry.uuid: entry.index for entry in entries}
        fields = self._form.name_fields(self._reader.fields)
        found = {}
        for document in self._store.query({self._form.key: {"$in": list(wanted)}}, fields):
            uuid = str(document[self._form.key])
            if self._form.is_flat or document.get("index") == wanted[uuid]:
                found[uuid] = self._form.get_output(document)
        return found

    def _find_predictions(self, unit: TaskUnit, outputs: Mapping[str, Any]) -> Predictions:
        formula, n_sites = str(unit.entries[0].formula), unit.entries[0].n_sites
        ids = {entry.prediction_id for entry in unit.entries if entry.prediction_id}
        missing = None
        named = bool(ids)
        for predictor in unit.predictors:
            ids |= {id for id in predictor.made or () if self._predictions.is_of(id, formula, n_sites) is not False}
            if not predictor.made:
                missing = f"job {predictor.uuid} of its flow predicted, and its prediction is not in the store"
        for hosts in set() if named else {entry.hosts for entry in unit.entries}:
            ids |= set(self._predictions.find_by_hosts(hosts, formula, n_sites))
        loaded = self._predictions.load(sorted(ids))
        for id in sorted(ids - loaded.keys()):
            if (maker := self._makers.get(id)) is not None and (made := self._load_made(maker).get(id)) is not None:
                loaded[id] = made
            else:
                missing = f"its flow predicted, or names, prediction {id}, which is in no store"
        linked = [doc for _, doc in sorted(loaded.items()) if _is_of(doc, formula, n_sites)]
        volumes = [v for output in outputs.values() if output and (v := self._reader.measure_start(output))]
        similar = [] if linked else self._predictions.find_similar(formula, n_sites, volumes)
        return Predictions(linked, list(self._predictions.load(similar).values()), missing)

    def _read_made(self, maker: TaskEntry) -> dict[str, PredictionDoc]:
        """Predictions in the document of the job that made them."""
        fields = ["index", "output.prediction", "output.predictions"]
        made: dict[str, PredictionDoc] = {}
        for document in self._store.query({"uuid": maker.uuid, "index": maker.index}, fields):
            output = document.get("output") or {}
            for raw in output.get("predictions") or [output.get("prediction")]:
                try:
                    doc = PredictionDoc.model_validate(raw)
                except ValidationError:  # of another release; its start is then not known
                    continue
                made[doc.prediction_id] = doc
        return made


def _is_of(doc: PredictionDoc, formula: str, n_sites: int) -> bool:
    initial = doc.initial
    return initial is not None and len(initial) == n_sites and initial.composition.reduced_formula == formula


def _chunk(units: Iterator[TaskUnit]) -> Iterator[list[TaskUnit]]:
    """Units of about `JOBS_PER_CHUNK` jobs together."""
    chunk: list[TaskUnit] = []
    for unit in units:
        chunk.append(unit)
        if sum(len(item.entries) for item in chunk) >= JOBS_PER_CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _stamp(raw: Mapping[str, Any]) -> str:
    """Fingerprint of an outcome."""
    return hash_content([FORMAT, raw["outcome_id"], raw.get("state"), str(raw.get("last_updated"))])
