"""The candidates of a screen ranked by energy above hull, as rows and as CSV, JSON or Parquet."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from pymatgen.core import Composition

from e3relax_flows.candidates.hulls import HullPosition, HullSet, build_entry, read_entries
from e3relax_flows.candidates.materials_project import MP_CACHE, fetch_entries
from e3relax_flows.core.errors import ConfigError
from e3relax_flows.core.optional import require
from e3relax_flows.core.settings import E3RelaxSettings
from e3relax_flows.ledger.energies import Correction, Energy, correct_energy, make_entry, prepare_references
from e3relax_flows.report import console
from e3relax_flows.schemas.outcomes import OutcomeDoc
from e3relax_flows.schemas.screens import CandidateRow, ScreenDoc

ENDINGS = (".csv", ".json", ".parquet")
FROM_MP = "mp"
MAX_LEFT_OUT = 5


@dataclass(frozen=True)
class RankedRow:
    """One candidate; energies in eV per atom, None if not known.

    Examples
    --------
    `dataclasses.asdict` turns a row into what a table needs:

    >>> from dataclasses import fields
    >>> from e3relax_flows import RankedRow
    >>> [field.name for field in fields(RankedRow)][:5]
    ['rank', 'id', 'formula', 'state', 'energy_above_hull']
    """

    rank: int | None  # 1: the lowest above the hull; None: not on it
    id: str
    formula: str | None
    state: str
    energy_above_hull: float | None  # over the hull of the references; negative: below all known entries
    energy_above_hull_of_all: float | None  # over the hull of the references and all candidates
    energy: float | None  # corrected, if possible
    raw_energy: float | None  # of the engine
    correction: str  # "mp2020", "none", or "raw": requested and not possible
    decomposition: str  # decomposition by the references
    volume: float | None  # Å³ per atom, relaxed
    n_atoms: int | None
    functional: str | None
    is_dft: bool | None
    start_kind: str | None  # of the relaxation that gave the energy
    n_ionic_steps: int | None
    duplicate_of: str | None
    structure_id: str | None
    prediction_id: str | None
    outcome_id: str | None
    message: str | None


@dataclass(frozen=True)
class _Found:
    """The energy of a candidate: of its lowest converged relaxation."""

    outcome: OutcomeDoc
    energy: Energy


def rank_screen(
    screen: ScreenDoc,
    outcomes: Mapping[str, OutcomeDoc],
    entries: str | None,
    correction: str | None,
    settings: E3RelaxSettings,
) -> list[RankedRow]:
    """Candidates of a screen ranked among the entries that are named, with what is left out named on stderr.

    Raises
    ------
    ConfigError
        When the correction is unknown, or the entries cannot be read.

    Examples
    --------
    Without entries of a hull there is no rank, but each candidate has its energy:

    >>> from pymatgen.core import Lattice, Structure
    >>> from e3relax_flows import CandidateRow, OutcomeRow, ScreenDoc, load_settings, rank_screen
    >>> from e3relax_flows.testing import make_outcome
    >>> initial, relaxed = (Structure(Lattice.rhombohedral(a, 60), ["Cu"], [[0, 0, 0]]) for a in (2.7, 2.5))
    >>> _, outcome = make_outcome(initial, relaxed)
    >>> rows = [CandidateRow(id="copper", state="successful", outcomes=[OutcomeRow.from_outcome(outcome)])]
    >>> settings = {"engine_id": "an id", "model": "default", "on_refuse": "initial", "paired_controls": True}
    >>> screen = ScreenDoc(name="metals", engine="emt", seed=0, control=0.1, candidates=rows, **settings)
    >>> [row] = rank_screen(screen, {outcome.outcome_id: outcome}, None, None, load_settings())
    >>> row.id, row.rank, row.energy, round(row.volume, 2), row.is_dft
    ('copper', None, 0.0, 11.05, False)
    """
    scheme = _choose_correction(correction, outcomes)
    references = None if entries is None else _read_references(entries, outcomes, scheme, settings)
    return rank_candidates(screen, outcomes, references, scheme)


def rank_candidates(
    screen: ScreenDoc, outcomes: Mapping[str, OutcomeDoc], references: HullSet | None, correction: Correction
) -> list[RankedRow]:
    """Rows of all candidates, the lowest above the hull first, then those that are not on it, in their order.

    Parameters
    ----------
    screen
        With its rows; a candidate's energy is that of its lowest converged relaxation.
    outcomes
        By id; those that the screen does not name are ignored.
    references
        Hulls of the entries to compare with, on the scale of `correction`; None: nothing is ranked.
    correction
        mp2020: energies that are not computed as the Materials Project does stay raw and are not on the hull.
    """
    found = {row.id: best for row in screen.candidates if (best := _choose(row, outcomes, correction))}
    comparable = [best.energy.entry for best in found.values() if best.energy.is_comparable]
    everything = None if references is None else references.extend(comparable)
    rows = [_build_row(row, found.get(row.id), references, everything, correction) for row in screen.candidates]
    rows.sort(key=lambda row: (row.energy_above_hull is None, row.energy_above_hull or 0.0))
    return [
        RankedRow(**asdict(row) | {"rank": place if row.energy_above_hull is not None else None})
        for place, row in enumerate(rows, start=1)
    ]


def write_ranked(rows: Sequence[RankedRow], path: Path) -> None:
    """Write the rows in the format of the suffix of `path`, atomically.

    Raises
    ------
    ConfigError
        When the suffix is not .csv, .json or .parquet.
    MissingDependencyError
        When Parquet is requested without pyarrow.
    """
    check_ending(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    names = [field.name for field in fields(RankedRow)]
    if path.suffix == ".csv":
        with part.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, names)
            writer.writeheader()
            writer.writerows(map(asdict, rows))
    elif path.suffix == ".json":
        part.write_text(json.dumps([asdict(row) for row in rows], indent=1, allow_nan=False), encoding="utf-8")
    else:
        _write_parquet(rows, part)
    part.replace(path)


def check_ending(path: Path) -> None:
    """Raise ConfigError if a table cannot have this name."""
    if path.suffix not in ENDINGS:
        raise ConfigError(f"{path}: a table ends in {', '.join(ENDINGS)}")


def _write_parquet(rows: Sequence[RankedRow], path: Path) -> None:
    arrow = require("pyarrow", "parquet", "writing Parquet")
    parquet = require("pyarrow.parquet", "parquet", "writing Parquet")
    kinds = {"int": arrow.int64(), "float": arrow.float64(), "bool": arrow.bool_(), "str": arrow.string()}
    schema = arrow.schema([(field.name, kinds[str(field.type).split(" ")[0]]) for field in fields(RankedRow)])
    parquet.write_table(arrow.Table.from_pylist([asdict(row) for row in rows], schema=schema), path)


def _choose_correction(word: str | None, outcomes: Mapping[str, OutcomeDoc]) -> Correction:
    if word is None:
        is_dft = any(outcome.result is not None and outcome.result.is_dft for outcome in outcomes.values())
        return Correction.MP2020 if is_dft else Correction.NONE
    if word not in list(Correction):
        raise ConfigError(f"--correction {word!r} is unknown; known: {', '.join(Correction)}")
    return Correction(word)


def _read_references(
    entries: str, outcomes: Mapping[str, OutcomeDoc], scheme: Correction, settings: E3RelaxSettings
) -> HullSet:
    if entries == FROM_MP:
        found = [
            build_entry(raw, f"Materials Project, {system}")
            for system in list_systems(outcomes.values())
            for raw in fetch_entries(system, settings.DATA_DIR / MP_CACHE)
        ]
    else:
        found = read_entries(Path(entries))
    kept, left_out = prepare_references(found, scheme)
    for name, reason in left_out[:MAX_LEFT_OUT]:
        console.print_error(f"{name} is left out of the hull: {reason}")
    if len(left_out) > MAX_LEFT_OUT:
        console.print_error(f"... and {len(left_out) - MAX_LEFT_OUT} entries more")
    return HullSet(kept)


def _choose(row: CandidateRow, outcomes: Mapping[str, OutcomeDoc], correction: Correction) -> _Found | None:
    """The lowest converged relaxation of a candidate, those on the requested scale before others."""
    entries = [
        (outcome, entry)
        for planned in row.outcomes
        if (outcome := outcomes.get(planned.outcome_id)) is not None and (entry := make_entry(outcome)) is not None
    ]
    found = [_Found(outcome, correct_energy(entry, correction)) for outcome, entry in entries]
    return min(found, key=lambda one: (not one.energy.is_comparable, one.energy.entry.energy_per_atom), default=None)


def _build_row(
    row: CandidateRow, found: _Found | None, references: HullSet | None, everything: HullSet | None, wanted: Correction
) -> RankedRow:
    entry = found.energy.entry if found else None
    result = found.outcome.result if found else None
    nowhere = HullPosition(None)
    place = whole = nowhere
    if found is not None and entry is not None and found.energy.is_comparable:
        place = references.locate(entry.composition, entry.energy) if references is not None else nowhere
        whole = everything.locate(entry.composition, entry.energy) if everything is not None else nowhere
    messages: Iterable[str | None] = (found.energy.message if found else None, place.message, row.message)
    failures = [outcome.message for outcome in row.outcomes if outcome.message] if found is None else []
    return RankedRow(
        rank=None,
        id=row.id,
        formula=row.formula,
        state=str(row.state),
        energy_above_hull=place.energy_above_hull,
        energy_above_hull_of_all=whole.energy_above_hull,
        energy=entry.energy_per_atom if entry is not None else None,
        raw_energy=entry.uncorrected_energy_per_atom if entry is not None else None,
        correction=str(wanted) if found is None or found.energy.is_comparable else "raw",
        decomposition=place.decomposition,
        volume=result.relaxed.volume / len(result.relaxed) if result else None,
        n_atoms=len(result.relaxed) if result else None,
        functional=result.functional if result else None,
        is_dft=result.is_dft if result else None,
        start_kind=str(found.outcome.start_kind) if found else None,
        n_ionic_steps=result.n_ionic_steps if result else None,
        duplicate_of=row.duplicate_of,
        structure_id=row.structure_id,
        prediction_id=row.prediction_id,
        outcome_id=found.outcome.outcome_id if found else None,
        message=next((message for message in (*messages, *failures) if message), None),
    )


def list_systems(outcomes: Iterable[OutcomeDoc]) -> list[str]:
    """Chemical systems of the relaxed structures, none of which is part of another, such as ["Br-Na"]."""
    systems = {
        frozenset(element.symbol for element in Composition(outcome.result.relaxed.composition).elements)
        for outcome in outcomes
        if outcome.result is not None
    }
    return sorted("-".join(sorted(system)) for system in systems if not any(system < other for other in systems))
