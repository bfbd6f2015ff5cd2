"""Make pairs of the task documents of one flow, each with its true initial structure, or record the reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn, Protocol

from pymatgen.core import Structure

from e3relax_flows.core.errors import EngineError, StartUnknownError
from e3relax_flows.core.ids import identify_structure
from e3relax_flows.pairs.chains import Segment, TaskRun, is_same, join_results, link_runs
from e3relax_flows.pairs.making import LeftOutError, Origin, Relaxation, check_structures, make_pair
from e3relax_flows.pairs.units import TaskEntry, TaskUnit
from e3relax_flows.schemas.outcomes import RelaxationResult, StartKind
from e3relax_flows.schemas.pairs import BuildRecord, LeftOut, PairDoc, PairStart
from e3relax_flows.schemas.predictions import PredictionDoc, Verdict

TASK_SOURCE = "tasks"
STARTS_FROM_INITIAL = {StartKind.INITIAL.value: PairStart.RAW, StartKind.CONTROL.value: PairStart.CONTROL}


class TaskReader(Protocol):
    """Interface of readers of task documents."""

    @property
    def fields(self) -> Sequence[str]:
        """Dotted paths below a job's output."""

    def read(self, document: Mapping[str, Any]) -> RelaxationResult | None:
        """Result of one document; None if it is not a relaxation."""

    def measure_start(self, document: Mapping[str, Any]) -> float | None:
        """Volume at the start, Å^3."""


@dataclass(frozen=True)
class BuiltPair:
    """Result of one calculation: its record, and the pair if there is one."""

    record: BuildRecord
    pair: PairDoc | None = None


@dataclass(frozen=True)
class Predictions:
    """Predictions at which the relaxations of a flow may have begun.

    Parameters
    ----------
    linked
        Of the same flow, or named in the metadata of the jobs.
    similar
        Others that were accepted and whose predicted structure has the right formula and volume.
    missing
        Description of predictions of the same flow that are not in the store; None: none is missing.
    """

    linked: Sequence[PredictionDoc] = ()
    similar: Sequence[PredictionDoc] = ()
    missing: str | None = None


@dataclass(frozen=True)
class TaskDocuments:
    """Input for the pairs of one unit.

    Parameters
    ----------
    unit
        The calculations.
    outputs
        Their documents by uuid, with the fields of the reader.
    predictions
        Their possible starts.
    source
        Name of the source of the pairs.
    fingerprint
        For the records.
    """

    unit: TaskUnit
    outputs: Mapping[str, Any]
    predictions: Predictions = field(default_factory=Predictions)
    source: str = TASK_SOURCE
    fingerprint: str = ""


@dataclass(frozen=True)
class _Start:
    initial: Structure
    kind: PairStart
    at: Structure | None = None
    prediction: PredictionDoc | None = None


def build_task_pairs(documents: TaskDocuments, reader: TaskReader) -> list[BuiltPair]:
    """Make the pairs of one unit; every calculation is in the `job_uuids` of at least one record."""
    runs, problems, others = _read_runs(documents, reader)
    built = [_record(documents, [entry], reason, message) for entry, reason, message in problems]
    for segment in link_runs(runs):
        earlier = next((e for e, _, _ in problems if e.completed_at <= segment.head.completed_at), None)
        built.append(_build_segment(documents, segment, earlier))
    if not built:
        message = "none of these calculations is a relaxation by VASP, GPAW or a force field"
        return [_record(documents, others, LeftOut.NOT_A_RELAXATION, message)]
    built[0].record.job_uuids += [entry.uuid for entry in others]
    return built


def record_failure(documents: TaskDocuments, error: Exception) -> BuiltPair:
    """Record of a unit whose documents cannot be read at all."""
    return _record(documents, documents.unit.entries, LeftOut.UNREADABLE, f"{type(error).__name__}: {error}")


def _read_runs(
    documents: TaskDocuments, reader: TaskReader
) -> tuple[list[TaskRun], list[tuple[TaskEntry, LeftOut, str]], list[TaskEntry]]:
    """Relaxations, unreadable ones, and calculations that are not relaxations."""
    runs: list[TaskRun] = []
    problems: list[tuple[TaskEntry, LeftOut, str]] = []
    others: list[TaskEntry] = []
    for entry in documents.unit.entries:
        try:
            result = reader.read(documents.outputs.get(entry.uuid) or {})
            if result is None:
                others.append(entry)
                continue
            check_structures(result.initial, result)
        except StartUnknownError as error:
            problems.append((entry, LeftOut.START_UNKNOWN, str(error)))
        except EngineError as error:
            problems.append((entry, LeftOut.UNREADABLE, str(error)))
        except LeftOutError as error:
            problems.append((entry, error.reason, str(error)))
        else:
            runs.append(TaskRun(entry, result))
    return runs, problems, others


def _build_segment(documents: TaskDocuments, segment: Segment, unreadable: TaskEntry | None) -> BuiltPair:
    entries = [run.entry for run in segment.runs]
    try:
        if segment.expects_another:
            raise LeftOutError(
                LeftOut.FAILED,
                f"the relaxation that follows {entries[-1].name!r} has no document: it failed, or has not run",
            )
        pair = _make_segment_pair(documents, segment, unreadable)
    except LeftOutError as error:
        return _record(documents, entries, error.reason, str(error))
    return BuiltPair(_record(documents, entries, pair=pair).record, pair)


def _make_segment_pair(documents: TaskDocuments, segment: Segment, unreadable: TaskEntry | None) -> PairDoc:
    entries = [run.entry for run in segment.runs]
    start = _find_start(documents, segment, unreadable)
    kind, prediction = start.kind, start.prediction
    model = prediction.model_id if prediction and kind is PairStart.PREDICTED else None
    potentials = [run.result.code for run in segment.before if not run.result.is_dft]
    if potentials and segment.runs[0].result.is_dft and kind is not PairStart.PREDICTED:
        kind, model = PairStart.PREDICTED, potentials[-1]
    origin = Origin(
        origin_id=entries[0].uuid,
        source=documents.source,
        id=next((entry.candidate for entry in entries if entry.candidate), None),
        start_kind=kind,
        model_id=model,
        prediction_id=prediction.prediction_id if prediction else None,
        job_uuids=[entry.uuid for entry in entries],
        hosts=entries[-1].hosts,
        dir_names=[name for run in segment.runs if (name := run.result.dir_name)],
    )
    return make_pair(Relaxation(join_results(segment), start.initial, origin, start.at))


def _find_start(documents: TaskDocuments, segment: Segment, unreadable: TaskEntry | None) -> _Start:
    """The true initial structure of the first relaxation of a segment.

    Raises
    ------
    LeftOutError
        When that relaxation began at a structure of unknown origin.
    """
    began, head, predictions = segment.start.initial, segment.head, documents.predictions
    held_back = STARTS_FROM_INITIAL.get(head.start_kind or "")
    for prediction in predictions.linked:
        if held_back and _is_at(prediction.initial, began):
            return _Start(_take(prediction.initial), held_back, prediction=prediction)
        if prediction.verdict is Verdict.ACCEPT and (at := _find_at(prediction, began)) is not None:
            return _Start(_take(prediction.initial), PairStart.PREDICTED, at, prediction)
        if _is_at(prediction.initial, began):
            return _Start(_take(prediction.initial), PairStart.RAW, prediction=prediction)
    found = [prediction for prediction in predictions.similar if _find_at(prediction, began) is not None]
    starts = {_identify_start(prediction) for prediction in found}
    if len(starts) > 1:
        _refuse(f"it began at the prediction for {len(starts)} different initial structures")
    if found:
        return _Start(_take(found[0].initial), PairStart.PREDICTED, _find_at(found[0], began), found[0])
    if predictions.missing and not held_back:
        _refuse(f"{predictions.missing}; give the store that holds it as PREDICTION_STORE")
    if predictions.linked:
        ids = ", ".join(prediction.prediction_id for prediction in predictions.linked[:3])
        _refuse(f"its flow predicted ({ids}), but it began neither at the predicted nor at the initial structure")
    if segment.lacks_first:
        _refuse(f"the relaxation before {head.name!r} has no document, so the first start is not known")
    if unreadable is not None:
        _refuse(f"an earlier relaxation of its flow, {unreadable.name!r}, has no structures")
    return _Start(began, held_back or PairStart.RAW)


def _identify_start(prediction: PredictionDoc) -> str | None:
    """Id of an initial structure as pairs hold it, without moments and charges."""
    initial = prediction.initial
    if initial is None or not initial.is_ordered:
        return prediction.structure_id
    held = initial.site_properties.get("selective_dynamics")
    kept = {"selective_dynamics": held} if held is not None else None
    symbols = [site.specie.symbol for site in initial]
    return identify_structure(Structure(initial.lattice, symbols, initial.frac_coords, site_properties=kept))


def _find_at(prediction: PredictionDoc, began: Structure) -> Structure | None:
    """The predicted or the polished structure of a prediction, where the relaxation began at it."""
    return next((each for each in (prediction.structure, prediction.polished) if _is_at(each, began)), None)


def _is_at(structure: Structure | None, began: Structure) -> bool:
    return structure is not None and structure.is_ordered and is_same(structure, began)


def _take(initial: Structure | None) -> Structure:
    if initial is None:
        _refuse("its prediction does not hold the initial structure")
    return initial


def _refuse(message: str) -> NoReturn:
    raise LeftOutError(LeftOut.START_UNKNOWN, message)


def _record(
    documents: TaskDocuments,
    entries: Sequence[TaskEntry],
    reason: LeftOut | None = None,
    message: str | None = None,
    pair: PairDoc | None = None,
) -> BuiltPair:
    record = BuildRecord(
        origin_id=entries[0].uuid,
        fingerprint=documents.fingerprint,
        pair_id=pair.pair_id if pair else None,
        reason=reason,
        message=message,
        source=documents.source,
        job_uuids=[entry.uuid for entry in entries],
    )
    return BuiltPair(record, pair)
