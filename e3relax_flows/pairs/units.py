"""List the calculations of a job store without loading them, and group those that may be connected."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from maggma.core import Store

from e3relax_flows.core.ids import hash_content

FORMAT = 2  # increased when the same documents give other pairs, so that all are built again
PREDICTION_CLASSES = ("PrerelaxDoc", "ChunkDoc")
PREDICTION_JOB = "e3r predict"
NAME_KEYS = ("candidate", "material_id", "mp_id", "id")  # of a job's metadata: the user's name for the structure
LISTED_FIELDS = (
    *("formula_pretty", "nsites", "task_label", "@class"),
    *("prediction.prediction_id", "predictions.prediction_id"),
)
JOB_FIELDS = ("uuid", "index", "completed_at", "name", "hosts", "metadata")


@dataclass(frozen=True, slots=True)
class TaskEntry:
    """One job in the list."""

    uuid: str
    index: int
    completed_at: str
    name: str
    hosts: tuple[str, ...]  # innermost first
    formula: str | None  # reduced; None if the job was not a calculation
    n_sites: int
    prediction_id: str | None  # of the metadata
    start_kind: str | None  # of the metadata
    candidate: str | None  # the user's name
    made: tuple[str, ...] | None  # prediction ids, where the job predicted

    @property
    def stamp(self) -> list[Any]:
        """Fields that change when the job is run again."""
        return [self.uuid, self.index, self.completed_at]


@dataclass(frozen=True)
class TaskUnit:
    """Calculations of one formula in one flow: those among which a relaxation may be continued.

    Parameters
    ----------
    entries
        In the order in which they ended.
    predictors
        Jobs of the same flow that predicted, where the metadata do not name the prediction.
    """

    entries: tuple[TaskEntry, ...]
    predictors: tuple[TaskEntry, ...] = field(default=())

    @property
    def fingerprint(self) -> str:
        """Hash of the input; pairs are built again when it changes."""
        return hash_content([FORMAT, [entry.stamp for entry in (*self.entries, *self.predictors)]])

    @property
    def uuids(self) -> list[str]:
        """Of the calculations."""
        return [entry.uuid for entry in self.entries]


@dataclass(frozen=True)
class TaskForm:
    """Whether documents are jobflow's, with the calculation as `output`, or are calculations themselves.

    Parameters
    ----------
    key
        Field of the ids; uuid means jobflow's.
    """

    key: str = "uuid"

    @property
    def is_flat(self) -> bool:
        """Whether a document is the calculation itself."""
        return self.key != "uuid"

    def name_fields(self, fields: Iterable[str]) -> list[str]:
        """Paths of fields of the calculation, and those that distinguish documents."""
        if self.is_flat:
            return sorted({self.key, "last_updated", *fields})
        return [*JOB_FIELDS, *(f"output.{name}" for name in fields)]

    def get_output(self, document: Mapping[str, Any]) -> Any:
        """The calculation in a document."""
        return document if self.is_flat else document.get("output")


def find_form(store: Store) -> TaskForm:
    """Detect the form of the documents; an empty store counts as jobflow's."""
    document = store.query_one({}, ["uuid", "task_id", "dir_name"])
    if not document or "uuid" in document:
        return TaskForm()
    return TaskForm("task_id" if document.get("task_id") is not None else "dir_name")


def list_tasks(store: Store, form: TaskForm) -> list[TaskEntry]:
    """The last run of every job of the store that was a calculation or predicted, in the order in which they ended.

    A job that was replaced, or was run again without a result, has no entry.
    """
    latest: dict[str, tuple[int, TaskEntry | None]] = {}
    for document in store.query({}, form.name_fields(LISTED_FIELDS)):
        uuid, index = _identify(document, form)
        if uuid is not None and index >= latest.get(uuid, (0, None))[0]:
            latest[uuid] = (index, _read_entry(document, form, uuid, index))
    entries = [entry for _, entry in latest.values() if entry is not None]
    return sorted(entries, key=lambda entry: (entry.completed_at, entry.uuid))


def group_tasks(entries: Sequence[TaskEntry], covered: Iterable[str] = ()) -> Iterator[TaskUnit]:
    """Group calculations by outermost flow and formula, and by prediction where their metadata name one.

    Parameters
    ----------
    entries
        In the order in which they ended.
    covered
        Uuids of jobs that are known otherwise, and left out.
    """
    left_away = frozenset(covered)
    predictors = _PredictorMap(entry for entry in entries if entry.made is not None)
    groups: dict[tuple[Any, ...], list[TaskEntry]] = {}
    for entry in entries:
        if entry.formula is not None and entry.uuid not in left_away:
            flow = entry.hosts[-1] if entry.hosts else entry.uuid
            key = (flow, entry.formula, entry.n_sites, entry.prediction_id, entry.start_kind)
            groups.setdefault(key, []).append(entry)
    for group in groups.values():
        named = group[0].prediction_id is not None
        yield TaskUnit(tuple(group), () if named else predictors.find(group))


class _PredictorMap:
    """Jobs that predicted, by the flows around them.

    One belongs to a calculation when it is directly in one of the flows around that, or the calculation directly
    in one of those around it; to be in the same campaign is not enough.
    """

    def __init__(self, predictors: Iterable[TaskEntry]) -> None:
        self._direct: dict[str, list[TaskEntry]] = {}
        self._around: dict[str, list[TaskEntry]] = {}
        for entry in predictors:
            for host in entry.hosts[:1]:
                self._direct.setdefault(host, []).append(entry)
            for host in entry.hosts[1:]:
                self._around.setdefault(host, []).append(entry)

    def find(self, group: Sequence[TaskEntry]) -> tuple[TaskEntry, ...]:
        if not self._direct:
            return ()
        found = {
            entry.uuid: entry
            for hosts in {entry.hosts for entry in group}
            for entry in (
                *(entry for host in hosts for entry in self._direct.get(host, ())),
                *(entry for host in hosts[:1] for entry in self._around.get(host, ())),
            )
        }
        return tuple(found[uuid] for uuid in sorted(found))


def _identify(document: Mapping[str, Any], form: TaskForm) -> tuple[str | None, int]:
    if form.is_flat:
        uuid = document.get(form.key)
        return (None if uuid is None else str(uuid)), 1
    return document.get("uuid"), int(document.get("index") or 1)


def _read_entry(document: Mapping[str, Any], form: TaskForm, uuid: str, index: int) -> TaskEntry | None:
    output = form.get_output(document)
    output = output if isinstance(output, Mapping) else {}
    name = str(document.get("name") or output.get("task_label") or "")
    made = _list_made(output, name)
    formula = output.get("formula_pretty") if made is None else None
    if made is None and formula is None:
        return None
    metadata = document.get("metadata") or {}
    return TaskEntry(
        uuid=uuid,
        index=index,
        completed_at=str(document.get("completed_at") or document.get("last_updated") or ""),
        name=name,
        hosts=tuple(document.get("hosts") or ()),
        formula=formula,
        n_sites=int(output.get("nsites") or 0),
        prediction_id=metadata.get("prediction_id"),
        start_kind=metadata.get("start_kind"),
        candidate=next((str(metadata[key]) for key in NAME_KEYS if metadata.get(key)), None),
        made=made,
    )


def _list_made(output: Mapping[str, Any], name: str) -> tuple[str, ...] | None:
    """Ids of the predictions that a job made; None for another kind of job."""
    single = output.get("prediction")
    several = output.get("predictions")
    found = [single] if isinstance(single, Mapping) else several if isinstance(several, list) else []
    ids = tuple(item["prediction_id"] for item in found if isinstance(item, Mapping) and item.get("prediction_id"))
    return ids if ids or output.get("@class") in PREDICTION_CLASSES or name == PREDICTION_JOB else None
