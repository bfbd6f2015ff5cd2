"""Figures of a model for plotly: errors by group and element, and expected against true errors."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

import numpy as np
from pymatgen.core import Element

from e3relax_flows.core.geometry import STRAIN_WEIGHT_ANGSTROM
from e3relax_flows.core.savings import find_harmed
from e3relax_flows.report.pages import Figure, round_number
from e3relax_flows.report.screen_figures import Points, place_points, thin_points
from e3relax_flows.schemas.models import EvaluatedPair, EvaluationDoc

MAX_GROUPS = 30
HARM_EDGES = (0.0, 0.02, 0.05, 0.1, 0.2, 0.4, 1.0)


class TrustRow(NamedTuple):
    """Expected and true values of a prediction; in Å except the probability."""

    expected_error: float | None
    error_low: float | None
    error_high: float | None
    harm_probability: float | None
    error: float
    initial_error: float
    expected_saving: float | None = None  # None: its model counts any worsening as harm


class ElementError(NamedTuple):
    """Mean errors over the pairs that hold an element."""

    n: int
    error: float  # Å
    ratio: float  # over the error of the initial structures


def draw_groups(evaluation: EvaluationDoc, key: str, id: str, title: str) -> list[Figure]:
    """Mean errors of groups of pairs, of the model and of the initial structures; None without predictions."""
    groups: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for row in evaluation.rows:
        if row.displacement is not None:
            groups[getattr(row, key)].append(_measure(row))
    largest = sorted(groups, key=lambda name: -len(groups[name]))[:MAX_GROUPS]
    if not largest:
        return []
    means = [np.mean(groups[name], axis=0) for name in largest]
    names = [f"{escape(name, quote=False)} ({len(groups[name])})" for name in largest]
    styles = (("left alone", "@orange", "/"), ("predicted", "@blue", ""))
    data = [
        {
            "type": "bar",
            "orientation": "h",
            "name": name,
            "y": names,
            "x": [round_number(mean[1 - place], 4) for mean in means],
            "marker": {"color": color, "pattern": {"shape": shape, "fillmode": "replace"}},
            "hovertemplate": "%{y}: %{x:.4f} Å<extra>" + name + "</extra>",
        }
        for place, (name, color, shape) in enumerate(styles)
    ]
    layout = {
        "barmode": "group",
        "xaxis": {"title": {"text": "mean error, Å"}, "rangemode": "tozero"},
        "yaxis": {"autorange": "reversed"},
        "legend": {"traceorder": "normal"},
    }
    few = f" The largest {MAX_GROUPS} of {len(groups)}." if len(groups) > MAX_GROUPS else ""
    caption = f"Displacement + 2.5 Å · strain to the relaxed structure; in brackets the number of pairs.{few}"
    return [Figure(id, title, caption, data, layout)]


def average_by_element(evaluation: EvaluationDoc, systems: Mapping[str, str]) -> dict[str, ElementError]:
    """Mean errors over the pairs that hold each element, by its symbol; pairs of unknown chemistry do not count.

    Parameters
    ----------
    evaluation
        With its rows.
    systems
        Chemical systems, such as "Mg-O", by pair id.
    """
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for row in evaluation.rows:
        if row.displacement is not None and row.pair_id in systems:
            for symbol in systems[row.pair_id].split("-"):
                found[symbol].append(_measure(row))
    errors = {}
    for symbol, pairs in found.items():
        error, identity = (float(mean) for mean in np.mean(pairs, axis=0))
        errors[symbol] = ElementError(len(pairs), error, error / max(identity, 1e-9))
    return errors


def draw_elements(errors: Mapping[str, ElementError]) -> list[Figure]:
    """The periodic table, coloured by the error over that of the initial structures."""
    values = {symbol: round(one.ratio, 4) for symbol, one in errors.items()}
    texts = {symbol: f"{one.ratio:.2f} of initial, {one.error:.4f} Å, {one.n} pairs" for symbol, one in errors.items()}
    caption = (
        "Mean error over pairs that hold the element, over the error of the initial structures: below 1 the "
        "prediction helps. Grey symbols: no pair."
    )
    bar = {"title": {"text": "ratio"}, "thickness": 12}
    trace = {
        "zmin": 0,
        "zmax": max(1.0, *values.values()),
        "colorscale": "Cividis",
        "reversescale": True,
        "colorbar": bar,
    }
    return [_draw_table("elements", "Error by element", caption, values, texts, trace)]


def draw_known_elements(numbers: Sequence[int]) -> list[Figure]:
    """The periodic table, with the elements of the training data marked."""
    symbols = [Element.from_Z(number).symbol for number in numbers]
    trace = {"zmin": 0, "zmax": 1, "colorscale": [[0, "@line"], [1, "@blue"]], "showscale": False}
    values: dict[str, float] = dict.fromkeys(symbols, 1.0)
    caption = f"{len(symbols)} elements. Structures that hold another one are refused as untrained."
    return [_draw_table("elements", "Elements of the training", caption, values, dict.fromkeys(symbols, "seen"), trace)]


def draw_expected(rows: Sequence[TrustRow]) -> list[Figure]:
    """True errors of predictions against expected ones."""
    known = [(row.expected_error, row.error) for row in rows if row.expected_error is not None]
    if not known:
        return []
    x, y = zip(*((max(a, 1e-4), max(b, 1e-4)) for a, b in known), strict=True)
    points = thin_points(Points(list(x), list(y), ["" for _ in x], [-1 for _ in x]))
    trace = place_points(points) | {
        "name": "predictions",
        "marker": {"color": "@blue", "size": 6, "opacity": 0.75},
        "hovertemplate": "expected %{x:.3f} Å, was %{y:.3f} Å<extra></extra>",
    }
    del trace["customdata"], trace["text"]
    low, high = min(*x, *y), max(*x, *y)
    diagonal = {"type": "line", "x0": low, "y0": low, "x1": high, "y1": high, "line": {"color": "@grey", "dash": "dot"}}
    layout = {
        "xaxis": {"title": {"text": "expected error, Å"}, "type": "log", "tickformat": "~g", "dtick": "D2"},
        "yaxis": {"title": {"text": "error, Å"}, "type": "log", "tickformat": "~g", "dtick": "D2"},
        "shapes": [diagonal | {"layer": "below"}],
        "showlegend": False,
    }
    caption = f"{len(known):,} relaxations; half of the points should lie above the dotted line, half below."
    return [Figure("expected", "Expected and true errors", caption, [trace], layout)]


def draw_harm_bins(rows: Sequence[TrustRow]) -> list[Figure]:
    """Share of predictions with harm, as their model defines it, by the predicted probability."""
    known = [(row.harm_probability, _is_harmed(row)) for row in rows if row.harm_probability is not None]
    if not known:
        return []
    places = np.clip(np.digitize([risk for risk, _ in known], HARM_EDGES) - 1, 0, len(HARM_EDGES) - 2)
    harmed = np.array([is_harmed for _, is_harmed in known])
    risks = np.array([risk for risk, _ in known])
    filled = [place for place in range(len(HARM_EDGES) - 1) if (places == place).any()]
    names = [f"{HARM_EDGES[place]:g} to {HARM_EDGES[place + 1]:g}" for place in filled]
    series = (("predicted", "@orange", "/", risks), ("was", "@blue", "", harmed))
    data = [
        {
            "type": "bar",
            "name": name,
            "x": names,
            "y": [round(float(values[places == place].mean()), 4) for place in filled],
            "text": [f"{int((places == place).sum())}" for place in filled] if name == "was" else None,
            "marker": {"color": color, "pattern": {"shape": shape, "fillmode": "replace"}},
            "hovertemplate": "%{x}: %{y:.1%}<extra>" + name + "</extra>",
        }
        for name, color, shape, values in series
    ]
    layout = {
        "barmode": "group",
        "xaxis": {"title": {"text": "probability of harm"}, "type": "category"},
        "yaxis": {"title": {"text": "fraction harmed"}, "rangemode": "tozero", "tickformat": ".0%"},
    }
    caption = f"{len(known):,} relaxations; numbers are counts of each bin. Both bars should be equally high."
    return [Figure("harm-bins", "Probability of harm and harm", caption, data, layout)]


def _is_harmed(row: TrustRow) -> bool:
    if row.expected_saving is not None:
        return bool(find_harmed(np.array(row.initial_error), np.array(row.error)))
    return row.error > row.initial_error


def count_coverage(rows: Sequence[TrustRow]) -> tuple[int, int]:
    """Number of errors within their interval, and number of intervals."""
    known = [row for row in rows if row.error_low is not None and row.error_high is not None]
    held = sum(float(row.error_low or 0) <= row.error <= float(row.error_high or 0) for row in known)
    return held, len(known)


def place_element(symbol: str) -> tuple[int, int]:
    """Row and column of an element's cell, from 0; lanthanides and actinides are in the rows 8 and 9."""
    element = Element(symbol)
    if element.is_lanthanoid or element.is_actinoid:
        first = 57 if element.is_lanthanoid else 89
        return (8 if element.is_lanthanoid else 9), element.Z - first + 2
    return element.row - 1, element.group - 1


def _measure(row: EvaluatedPair) -> tuple[float, float]:
    """Error of the prediction and of the initial structure, Å."""
    error = (row.displacement or 0.0) + STRAIN_WEIGHT_ANGSTROM * (row.strain or 0.0)
    return error, row.identity_displacement + STRAIN_WEIGHT_ANGSTROM * row.identity_strain


def _draw_table(
    id: str, title: str, caption: str, values: Mapping[str, float], texts: Mapping[str, str], trace: dict[str, Any]
) -> Figure:
    """A periodic table: a heat map, with all symbols over it."""
    cells: list[list[float | None]] = [[None] * 18 for _ in range(10)]
    hover = [[""] * 18 for _ in range(10)]
    symbols: dict[bool, list[tuple[int, int, str]]] = {True: [], False: []}
    for number in range(1, 104):
        symbol = Element.from_Z(number).symbol
        row, column = place_element(symbol)
        cells[row][column] = values.get(symbol)
        hover[row][column] = f"{symbol}: {texts[symbol]}" if symbol in texts else ""
        symbols[symbol in values].append((column, row, symbol))
    heat = {"type": "heatmap", "z": cells, "text": hover, "xgap": 2, "ygap": 2, "hoverongaps": False, **trace}
    heat["hovertemplate"] = "%{text}<extra></extra>"
    labels = []
    for has_value, places in symbols.items():
        if not places:
            continue
        x, y, names = zip(*places, strict=True)
        label = {"type": "scatter", "mode": "text", "x": list(x), "y": list(y), "text": list(names)}
        color = {"color": "#ffffff" if has_value else "@grey", "size": 12 if has_value else 11}
        shadow = {"shadow": "0 0 3px #000, 0 0 2px #000"} if has_value else {}
        labels.append({**label, "textfont": color | shadow, "hoverinfo": "skip"})
    axis = {"visible": False, "fixedrange": True}
    layout = {
        "xaxis": axis | {"range": [-0.6, 17.6]},
        "yaxis": axis | {"range": [9.6, -0.6]},
        "showlegend": False,
        "margin": {"l": 4, "r": 4, "t": 4, "b": 4},
    }
    return Figure(id, title, caption, [heat, *labels], layout, wide=True)
