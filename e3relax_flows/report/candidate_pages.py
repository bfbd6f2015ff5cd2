"""The page of one candidate: structures for the viewer, numbers, provenance, the command to repeat it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pymatgen.vis
import yaml
from pymatgen.analysis.molecule_structure_comparator import CovalentRadius
from pymatgen.core import Element, Structure

from e3relax_flows.report.tables import choose_relaxed
from e3relax_flows.schemas.displays import format_number
from e3relax_flows.schemas.outcomes import OutcomeDoc
from e3relax_flows.schemas.predictions import PredictionDoc, PredictOptions, SecondOpinion
from e3relax_flows.schemas.screens import CandidateRow, ScreenDoc

FRACTION_DIGITS = 5  # fractional coordinates are kept in units of 1e-5
LATTICE_DIGITS = 4
USUAL_RADIUS = 1.4  # Å, where no covalent radius is known

COMMAND = """\
python - <<'END'
from e3relax_flows.ledger.store import find_predictions, open_stores

with open_stores() as stores:
    prediction = find_predictions(stores.predictions, ["PREDICTION_ID"])["PREDICTION_ID"]
prediction.initial.to_file("PREDICTION_ID.json")
END
cat > PREDICTION_ID.yaml <<'END'
inputs: [PREDICTION_ID.json]
engine: {engine}
{engine_settings}
model: {model}
options: {options}
control: 0
out: PREDICTION_ID
END
e3relax screen PREDICTION_ID.yaml"""

CUSTOM_ENGINE = (
    "# engine_settings: not recorded, as the engine was built by code; where it is not as by name, type them"
)


class CommandBook:
    """Commands of candidates, stored as templates that differ in the id of the prediction."""

    def __init__(self) -> None:
        self.templates: dict[str, int] = {}

    def note(self, screen: ScreenDoc, prediction: PredictionDoc) -> list[Any]:
        """Number of the template, and the id that replaces PREDICTION_ID in it."""
        known = screen.engine_settings
        text = COMMAND.format(
            engine=json.dumps(screen.engine),
            engine_settings=CUSTOM_ENGINE if known is None else f"engine_settings: {json.dumps(known)}",
            model=json.dumps(prediction.model_id),
            options=json.dumps(_list_changes(prediction.options)),
        )
        return [self.templates.setdefault(text, len(self.templates)), prediction.prediction_id]


def describe_candidate(
    row: CandidateRow,
    prediction: PredictionDoc | None,
    outcomes: Sequence[OutcomeDoc],
    screen: ScreenDoc,
    book: CommandBook,
) -> dict[str, Any]:
    """Content of the page of a candidate, as values for JSON.

    Parameters
    ----------
    row
        Of the screen.
    prediction, outcomes
        Its documents in the stores.
    screen
        For its engine.
    book
        Collects the command.
    """
    structures = list_structures(prediction, outcomes)
    tables = []
    if structures:
        tables.append(_tabulate_lattices(structures))
    if row.outcomes:
        tables.append(_tabulate_outcomes(row, outcomes))
    can_repeat = prediction is not None and prediction.initial is not None
    return {
        "message": _find_message(row, prediction),
        "facts": _list_facts(row, prediction),
        "provenance": _list_provenance(row, prediction, outcomes),
        "tables": tables,
        "structures": [pack_structure(name, structure, note) for name, structure, note in structures],
        "command": book.note(screen, prediction) if prediction is not None and can_repeat else None,
    }


def list_structures(
    prediction: PredictionDoc | None, outcomes: Sequence[OutcomeDoc]
) -> list[tuple[str, Structure, str]]:
    """The available initial, predicted, polished and relaxed structures, each with a note."""
    found = []
    if prediction is not None and prediction.initial is not None:
        found.append(("initial", prediction.initial, "as given"))
    if prediction is not None and prediction.structure is not None:
        found.append(("predicted", prediction.structure, f"{prediction.verdict} · model {prediction.model_id}"))
    if prediction is not None and prediction.polished is not None:
        judge = prediction.second_opinion.potential if prediction.second_opinion else "a potential"
        found.append(("polished", prediction.polished, f"{prediction.n_polish_steps} steps of {judge}"))
    best = choose_relaxed(outcomes)
    if best is not None and best.result is not None:
        label = best.result.code if best.result.is_dft else f"{best.result.code}, not DFT"
        found.append(("relaxed", best.result.relaxed, f"{label} · from {best.start_kind} · {best.state}"))
    return found


def pack_structure(name: str, structure: Structure, note: str) -> dict[str, Any]:
    """A structure in few characters: nine lattice entries (Å), a kind per site, coordinates in units of 1e-5."""
    labels: dict[str, int] = {}
    kinds = [labels.setdefault(site.species_string, len(labels)) for site in structure]
    return {
        "name": name,
        "note": f"{structure.composition.reduced_formula}, {len(structure)} atoms · {note}",
        "lattice": [round(float(entry), LATTICE_DIGITS) for entry in structure.lattice.matrix.ravel()],
        "labels": list(labels),
        "kinds": kinds,
        "sites": [round(float(entry) * 10**FRACTION_DIGITS) for entry in structure.frac_coords.ravel()],
    }


def describe_elements(labels: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Colour (Jmol's), covalent radius (Å) and kind of the species on sites; of mixed sites, of the first."""
    return {label: _describe_label(label) for label in sorted(set(labels))}


@cache
def _describe_label(label: str) -> dict[str, Any]:
    symbol = "".join(char for char in label.split(":")[0].split(",")[0] if char.isalpha())
    color = _load_colors().get(symbol, [144, 144, 144])
    is_metal = Element.is_valid_symbol(symbol) and bool(Element(symbol).is_metal)
    return {
        "color": "#{:02x}{:02x}{:02x}".format(*color),
        "radius": CovalentRadius.radius.get(symbol, USUAL_RADIUS),
        "metal": is_metal,
    }


@cache
def _load_colors() -> dict[str, list[int]]:
    file = Path(pymatgen.vis.__file__).parent / "ElementColorSchemes.yaml"
    return dict(yaml.safe_load(file.read_text(encoding="utf-8"))["Jmol"])


def _find_message(row: CandidateRow, prediction: PredictionDoc | None) -> str:
    if row.duplicate_of is not None:
        return f"The same structure as {row.duplicate_of}, which is relaxed instead."
    first = row.message, prediction.message if prediction else None
    messages = [*first, *(one.message for one in row.outcomes), row.note]
    return " ".join(dict.fromkeys(message for message in messages if message))


def _list_facts(row: CandidateRow, prediction: PredictionDoc | None) -> list[tuple[str, str]]:
    facts = [("formula", row.formula), ("state", str(row.state)), ("verdict", str(row.verdict or "none"))]
    if row.reasons:
        facts.append(("refused because of", ", ".join(map(str, row.reasons))))
    if prediction is not None:
        interval = prediction.error_interval
        facts += [
            ("volume, predicted / initial", format_number(prediction.volume_ratio, 4)),
            ("mean displacement, Å", format_number(prediction.displacement, 4)),
            ("strain", format_number(prediction.strain, 4)),
            ("score, Å", format_number(prediction.score, 4)),
            ("expected error, Å", format_number(prediction.expected_error, 3)),
            ("nine of ten lie in, Å", f"{interval[0]:.3f} to {interval[1]:.3f}" if interval else "–"),
            ("probability of harm", format_number(prediction.harm_probability, 3)),
            ("expected saving, ln(error before / after)", format_number(prediction.expected_saving, 3)),
            *_list_opinion(prediction.second_opinion),
            ("passes of the network", str(prediction.n_passes)),
        ]
    return [(name, text) for name, text in facts if text]


def _list_opinion(opinion: SecondOpinion | None) -> list[tuple[str, str]]:
    if opinion is None:
        return []
    if opinion.message is not None:
        return [("second opinion", f"none: {opinion.message}")]
    return [
        ("second opinion", opinion.potential),
        ("its energy, predicted - initial, eV/atom", format_number(opinion.energy_change, 4)),
        ("its largest force, predicted, eV/Å", format_number(opinion.predicted_force, 3)),
    ]


def _list_provenance(
    row: CandidateRow, prediction: PredictionDoc | None, outcomes: Sequence[OutcomeDoc]
) -> list[tuple[str, str]]:
    facts = [
        ("structure id", row.structure_id),
        ("prediction id", row.prediction_id),
        ("model id", row.model_id),
        ("outcome ids", ", ".join(one.outcome_id for one in row.outcomes)),
    ]
    if prediction is not None:
        guards = prediction.options.guards.model_dump(exclude_defaults=True)
        facts += [
            ("options", json.dumps(_list_changes(prediction.options)) if prediction.options else None),
            ("guards", json.dumps(guards) if guards else None),
            ("predicted on", f"{prediction.device}, {prediction.last_updated:%Y-%m-%d %H:%M} UTC"),
            ("job of the prediction", prediction.job_uuid),
            ("its flows", ", ".join(prediction.hosts)),
        ]
    for outcome in outcomes:
        facts += [
            (f"directory, from {outcome.start_kind}", outcome.result.dir_name if outcome.result else None),
            (f"jobs, from {outcome.start_kind}", ", ".join(outcome.job_uuids)),
        ]
    versions = prediction.versions if prediction else {}
    facts.append(("versions", ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))))
    return [(name, text) for name, text in facts if text]


def _list_changes(options: PredictOptions) -> dict[str, Any]:
    """Options that differ from the defaults, and the two most important ones."""
    changes = options.model_dump(mode="json", exclude_defaults=True)
    return {"passes": options.passes, "symmetry": options.symmetry} | changes


def _tabulate_lattices(structures: Sequence[tuple[str, Structure, str]]) -> dict[str, Any]:
    rows = [
        [
            name,
            *(f"{length:.4f}" for length in structure.lattice.abc),
            *(f"{angle:.2f}" for angle in structure.lattice.angles),
            f"{structure.volume / len(structure):.3f}",
        ]
        for name, structure, _ in structures
    ]
    columns = ["", "a, Å", "b, Å", "c, Å", "α, °", "β, °", "γ, °", "volume, Å³/atom"]
    return {"caption": "Lattices", "columns": columns, "rows": rows}


def _tabulate_outcomes(row: CandidateRow, outcomes: Sequence[OutcomeDoc]) -> dict[str, Any]:
    docs = {doc.outcome_id: doc for doc in outcomes}
    rows = []
    for one in row.outcomes:
        doc = docs.get(one.outcome_id)
        result = doc.result if doc else None
        per_atom = one.energy / len(result.relaxed) if result and one.energy is not None else None
        rows.append(
            [
                str(one.start_kind),
                str(one.state or "planned"),
                *("–" if steps is None else str(steps) for steps in (one.n_ionic_steps, one.n_electronic_steps)),
                format_number(per_atom, 4),
                format_number(one.wall_time_s, 1),
                " ".join(filter(None, (result.code, result.functional))) if result else "–",
                {True: "yes", False: "no", None: "–"}[doc.same_basin if doc else None],
                "yes" if one.reused else "no",
            ]
        )
    columns = ["from", "state", "ionic", "SCF", "eV/atom", "time, s", "code", "predicted basin", "reused"]
    return {"caption": "Relaxations", "columns": columns, "rows": rows}
