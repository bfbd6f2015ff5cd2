"""The page of a model: its card, its errors by source and chemistry, its calibration, its judgements."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from e3relax_flows.report.model_figures import (
    TrustRow,
    average_by_element,
    count_coverage,
    draw_elements,
    draw_expected,
    draw_groups,
    draw_harm_bins,
    draw_known_elements,
)
from e3relax_flows.report.pages import Figure, Page, Section, TextTable, Tile, list_table
from e3relax_flows.report.tables import tabulate_comparisons, tabulate_gates
from e3relax_flows.schemas.displays import format_number
from e3relax_flows.schemas.models import EvaluationDoc, GateDoc, ModelDoc


@dataclass(frozen=True)
class ModelDocuments:
    """Documents of a model."""

    model_id: str
    name: str
    config: Mapping[str, Any]
    card: str = ""
    doc: ModelDoc | None = None  # of the registry
    aliases: Sequence[str] = ()
    evaluations: Sequence[EvaluationDoc] = ()
    gates: Sequence[GateDoc] = ()
    systems: Mapping[str, str] = field(default_factory=dict)  # chemical systems by pair id
    trust: Sequence[TrustRow] = ()  # expected and true errors of predictions that DFT has relaxed


def build_model_page(documents: ModelDocuments) -> Page:
    """The parts of the page."""
    evaluation = documents.evaluations[-1] if documents.evaluations else None
    sections = [
        _build_errors(documents, evaluation),
        Section("chemistry", "Chemistry", *_draw_chemistry(documents, evaluation)),
        _build_calibration(documents),
        _build_gates(documents),
        Section("origin", "Origin", tables=[_tabulate_origin(documents)]),
        Section("card", "Card", [] if documents.card else ["This model has no card."], markdown=documents.card),
    ]
    aliases = f", {', '.join(documents.aliases)}" if documents.aliases else ""
    subtitle = f"Model · {documents.model_id}{aliases}"
    return Page(documents.name, subtitle, list_tiles(documents, evaluation), sections)


def list_tiles(documents: ModelDocuments, evaluation: EvaluationDoc | None) -> list[Tile]:
    """The headline numbers."""
    provenance = documents.config.get("provenance", {})
    calibration = documents.config.get("calibration", {})
    tiles = [Tile("kind", str(documents.config.get("kind", "?")))]
    if "n_parameters" in provenance:
        tiles.append(Tile("parameters", f"{provenance['n_parameters']:,}"))
    hours = documents.doc.training_hours if documents.doc and documents.doc.training_hours else provenance.get("hours")
    if hours:
        tiles.append(
            Tile("training", f"{hours:.2f} h", f"{provenance['step']:,} steps" if "step" in provenance else "")
        )
    if evaluation and evaluation.rows:
        error, identity = average(evaluation, "displacement"), average(evaluation, "identity_displacement")
        n = sum(row.displacement is not None for row in evaluation.rows)
        note = f"{identity:.4f} left alone, {n:,} pairs" if identity is not None else ""
        tiles.append(Tile("displacement, Å", format_number(error, 4), note))
    if "refused" in calibration:
        tiles.append(Tile("refused", f"{calibration['refused']:.0%}", "of the pairs of its calibration"))
    return tiles


def average(evaluation: EvaluationDoc, name: str) -> float | None:
    """Mean of a column over the pairs that have a prediction."""
    rows = [row for row in evaluation.rows if row.displacement is not None]
    return sum(getattr(row, name) for row in rows) / len(rows) if rows else None


def _build_errors(documents: ModelDocuments, evaluation: EvaluationDoc | None) -> Section:
    figures: list[Figure] = []
    tables: list[TextTable] = []
    words = []
    if evaluation is not None:
        words = [
            f"On holdout {evaluation.holdout_id}, {len(evaluation.rows):,} pairs, evaluated "
            f"{evaluation.created_at:%Y-%m-%d}. For comparison: the initial structures."
        ]
        figures = [
            *draw_groups(evaluation, "source", "by-source", "Error by source"),
            *draw_groups(evaluation, "stratum", "by-family", "Error by family of chemistry"),
        ]
    if documents.doc and documents.doc.metrics:
        metrics = documents.doc.metrics
        names = sorted({name for values in metrics.values() for name in values})
        rows = [[source, *(_format(values.get(name)) for name in names)] for source, values in metrics.items()]
        tables = [list_table(["source", *names], rows, "On the validation pairs of its training")]
    if not words and not tables:
        words = [
            "No evaluation of it is in the store; `e3relax evaluate` prints errors on pairs. The card may have some."
        ]
    return Section("errors", "Errors", words, figures, tables)


def _draw_chemistry(
    documents: ModelDocuments, evaluation: EvaluationDoc | None
) -> tuple[list[str], list[Figure], list[TextTable]]:
    """Text, the periodic table, and its numbers as a table."""
    elements = average_by_element(evaluation, documents.systems) if evaluation else {}
    if elements:
        rows = [[name, one.n, f"{one.ratio:.2f}", f"{one.error:.4f}"] for name, one in sorted(elements.items())]
        table = list_table(["element", "pairs", "predicted / initial", "error, Å"], rows, "By element")
        return [], draw_elements(elements), [table]
    known = documents.config.get("calibration", {}).get("elements", [])
    if not known:
        return ["The elements of its training are not known."], [], []
    words = "No evaluation with known compositions is in the store; these are the elements of its training data."
    return [words], draw_known_elements(known), []


def _build_calibration(documents: ModelDocuments) -> Section:
    calibration = documents.config.get("calibration", {})
    trust = calibration.get("trust")
    words = []
    tables = []
    if trust is None:
        words.append("It is not calibrated: its predictions have neither expected errors nor a probability of harm.")
    else:
        rows = [
            ("pairs", f"{calibration.get('n_pairs', 0):,}"),
            ("coverage of the interval", f"{trust['coverage']:.0%}"),
            ("largest probability of harm that is accepted", f"{trust['max_harm']:.3g}"),
            ("refused of these pairs", f"{calibration.get('refused', 0):.0%}"),
            ("interval, in logarithms", " to ".join(f"{end:+.2f}" for end in trust["interval"])),
        ]
        tables.append(list_table(["calibration", "value"], rows))
        signals = ["(constant)", *trust["signals"]]
        weights = zip(signals, trust["error"], trust["harm"], strict=False)
        cells = [[name, f"{error:+.3f}", f"{harm:+.3f}"] for name, error, harm in weights]
        tables.append(
            list_table(["signal", "of the error", "of harm"], cells, "Weights of the logarithms of the signals")
        )
    held, n = count_coverage(documents.trust)
    if n:
        words.append(
            f"{n:,} of its predictions were relaxed since: the interval held the error of {held / n:.0%} of them."
        )
    elif trust is not None:
        words.append(
            "None of its predictions was relaxed with these stores yet, so that there is nothing to check it by."
        )
    figures = [*draw_expected(documents.trust), *draw_harm_bins(documents.trust)]
    return Section("calibration", "Calibration", words, figures, tables)


def _build_gates(documents: ModelDocuments) -> Section:
    if not documents.gates:
        return Section("gates", "Gates", ["No gate has compared this model."])
    gates = documents.gates
    return Section("gates", "Gates", tables=[tabulate_gates(gates), *tabulate_comparisons(gates)])


def _tabulate_origin(documents: ModelDocuments) -> TextTable:
    doc, config = documents.doc, documents.config
    facts: list[tuple[str, Any]] = [("model id", documents.model_id), ("aliases", ", ".join(documents.aliases))]
    if doc is not None:
        facts += [
            ("parent", doc.parent_id),
            ("dataset", doc.dataset_id),
            ("training run", doc.run_id),
            ("registered", f"{doc.created_at:%Y-%m-%d %H:%M} UTC"),
            ("hardware", json.dumps(doc.hardware) if doc.hardware else None),
        ]
    facts += [(name, _describe(config[name])) for name in ("network", "provenance") if name in config]
    return list_table(["what", "value"], [fact for fact in facts if fact[1]])


def _describe(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {_describe(item)}" for name, item in value.items())
    if isinstance(value, datetime):
        return value.isoformat()
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _format(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"
