"""Make pairs from imported files; relaxations of one folder are joined like those of one flow."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pymatgen.core import Structure

from e3relax_flows.core.functionals import add_pressure, read_pressure, spell_functional
from e3relax_flows.core.ids import hash_content
from e3relax_flows.pairs.chains import is_same
from e3relax_flows.pairs.files import FilePair
from e3relax_flows.pairs.making import LeftOutError, Origin, Relaxation, check_structures, make_pair
from e3relax_flows.pairs.prediction_index import PredictionIndex
from e3relax_flows.pairs.tasks import BuiltPair, Predictions, TaskDocuments, build_task_pairs
from e3relax_flows.pairs.units import FORMAT, TaskEntry, group_tasks
from e3relax_flows.schemas.outcomes import RelaxationResult
from e3relax_flows.schemas.pairs import BuildRecord, LeftOut

IMPORT_SOURCE = "import"
NUMBERED = re.compile(r"relax[a-z]*[ _.-]?([12])$", re.IGNORECASE)  # folders of two relaxations in a row


@dataclass(frozen=True)
class FolderRun:
    """Content of a folder: a relaxation, none (both None), or one that cannot be read."""

    folder: Path
    result: RelaxationResult | None = None
    error: Exception | None = None


def restate(result: RelaxationResult, functional: str) -> RelaxationResult:
    """A result with the functional that the user states; a pressure in its input is kept."""
    name = spell_functional(functional)
    if not read_pressure(name):
        name = add_pressure(name, read_pressure(result.functional or ""))
    return result.model_copy(update={"functional": name, "functionals": [name], "unnamed": None})


class _ResultReader:
    """Returns results that were read before."""

    fields: tuple[str, ...] = ()

    def read(self, document: Mapping[str, Any]) -> RelaxationResult | None:
        run: FolderRun = document["run"]
        if run.error is not None:
            raise run.error
        return run.result

    def measure_start(self, document: Mapping[str, Any]) -> float | None:
        run: FolderRun = document["run"]
        return run.result.initial.volume if run.result is not None else None


def import_folders(
    root: Path, runs: Iterable[FolderRun], predictions: PredictionIndex, source: str | None = None
) -> Iterator[list[BuiltPair]]:
    """Make pairs of VASP runs below one folder.

    A run that begins where an earlier one ended, by the order of the names, continues it. One that begins at a
    stored prediction gets the initial structure of that.

    Parameters
    ----------
    root
        The folder.
    runs
        Contents of the folders below it, in the order of their names.
    predictions
        The predictions at which a run may have begun.
    source
        Of the pairs.
    """
    reader = _ResultReader()
    entries, outputs = [], {}
    for index, run in enumerate(runs):
        entry = _describe_run(run, root, index)
        entries.append(entry)
        outputs[entry.uuid] = {"run": run}
    for unit in group_tasks(entries):
        mine = {uuid: outputs.pop(uuid) for uuid in unit.uuids}
        volumes = [volume for output in mine.values() if (volume := reader.measure_start(output))]
        similar = predictions.find_similar(str(unit.entries[0].formula), unit.entries[0].n_sites, volumes)
        known = Predictions(similar=list(predictions.load(similar).values()))
        documents = TaskDocuments(unit, mine, known, source or IMPORT_SOURCE, unit.fingerprint)
        yield build_task_pairs(documents, reader)


def import_pair(item: FilePair, predictions: PredictionIndex, source: str | None = None) -> BuiltPair:
    """Make the pair of one entry of a file."""
    stated = item.content.get("source")
    record = BuildRecord(
        origin_id=item.location,
        fingerprint=hash_content([FORMAT, item.location]),
        source=source or stated or IMPORT_SOURCE,
        reason=item.reason,
        message=item.message,
    )
    if item.result is None:
        return BuiltPair(record)
    try:
        check_structures(item.result.initial, item.result)
        _check_start(item.result.initial, predictions)
        origin = Origin(
            origin_id=item.location,
            source=record.source,
            **{key: value for key, value in item.content.items() if key != "source"},
        )
        pair = make_pair(Relaxation(item.result, item.result.initial, origin))
    except LeftOutError as error:
        record.reason, record.message = error.reason, f"{item.location}: {error}"
        return BuiltPair(record)
    record.pair_id = pair.pair_id
    return BuiltPair(record, pair)


def _check_start(initial: Structure, predictions: PredictionIndex) -> None:
    """Refuse an initial structure that is a predicted one."""
    if not initial.is_ordered:
        return
    formula = initial.composition.element_composition.reduced_formula
    similar = predictions.load(predictions.find_similar(formula, len(initial), [initial.volume]))
    for prediction in similar.values():
        if prediction.structure is None or prediction.initial is None:
            continue
        if is_same(prediction.structure, initial) and not is_same(prediction.initial, initial):
            raise LeftOutError(
                LeftOut.START_UNKNOWN,
                f"its initial structure is the predicted one of {prediction.prediction_id}; give its initial structure",
            )


def _describe_run(run: FolderRun, root: Path, index: int) -> TaskEntry:
    """A folder as a job of one flow, which is `root`; a folder without a relaxation is a flow of its own."""
    initial = run.result.initial if run.result is not None else None
    numbered = NUMBERED.search(run.folder.name)
    relative = str(run.folder.relative_to(root))
    return TaskEntry(
        uuid=str(run.folder.absolute()),
        index=1,
        completed_at=f"{index:09d}",
        name=f"relax {numbered[1]}" if numbered else "",
        hosts=(str((root if initial is not None else run.folder).absolute()),),
        formula=initial.composition.reduced_formula if initial is not None else "",
        n_sites=len(initial) if initial is not None else 0,
        prediction_id=None,
        start_kind=None,
        candidate=root.name if relative == "." else relative,
        made=None,
    )
