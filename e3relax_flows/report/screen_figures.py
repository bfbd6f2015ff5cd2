"""Figures of a screen for plotly: funnel, savings, parity, displacements, errors against score and risk."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from e3relax_flows.core.geometry import STRAIN_WEIGHT_ANGSTROM
from e3relax_flows.report.pages import Figure, round_number
from e3relax_flows.schemas.outcomes import OutcomeDoc, PairedSaving, SavingsSummary, StructureErrors
from e3relax_flows.schemas.predictions import PredictionDoc, Verdict

MAX_POINTS, MAX_OUTLIERS = 2000, 200  # of one series; more make a page slow
N_BINS = 40
MAX_LOG_LABELS = 5
INITIAL: dict[str, Any] = {"name": "initial", "marker": {"color": "@orange", "symbol": "square-open", "size": 7}}
PREDICTED: dict[str, Any] = {
    "name": "predicted",
    "marker": {"color": "@blue", "symbol": "circle", "size": 6, "opacity": 0.75},
}
LOST = {"refused", "no prediction", "duplicates", "unconverged", "failed", "skipped", "left", "cancelled"}


@dataclass(frozen=True)
class Relaxed:
    """A candidate with a converged relaxation, so that its minimum is known."""

    row: int  # index in the list of candidates
    name: str
    prediction: PredictionDoc
    outcome: OutcomeDoc


@dataclass(frozen=True)
class Points:
    """Points of one series."""

    x: list[float]
    y: list[float]
    names: list[str]
    rows: list[int]


def draw_funnel(funnel: Sequence[tuple[str, int]]) -> Figure:
    """How many candidates reached each stage, and how many were lost."""
    names = [name for name, _ in funnel]
    counts = [count for _, count in funnel]
    data = _draw_bars(names, counts, [name in LOST for name in names])
    caption = "Hatched: candidates that end here, or have no minimum."
    return Figure("funnel", "From candidates to minima", caption, [data], _layout_bars(len(names), "candidates"))


def draw_refusals(refusals: Sequence[tuple[str, int]]) -> list[Figure]:
    """Why predictions were refused or could not be made; None without any."""
    if not refusals:
        return []
    names, counts = [name for name, _ in refusals], [count for _, count in refusals]
    caption = "A prediction may have several reasons. DFT of a refused candidate starts from its initial structure."
    data = _draw_bars(names, counts, [True] * len(names))
    return [Figure("refusals", "Why not", caption, [data], _layout_bars(len(names), "predictions"))]


def draw_savings(savings: SavingsSummary) -> list[Figure]:
    """Steps from the predicted structure over steps from the initial one; None without pairs."""
    named = [("ionic steps", savings.ionic), ("electronic (SCF) steps", savings.electronic)]
    found = [(name, saving) for name, saving in named if saving is not None]
    if not found:
        return []
    errors = {
        "type": "data",
        "symmetric": False,
        "array": [_measure_end(saving, saving.high) for _, saving in found],
        "arrayminus": [_measure_end(saving, saving.low) for _, saving in found],
        "color": "@blue",
        "thickness": 2,
        "width": 8,
    }
    data = {
        "type": "scatter",
        "mode": "markers+text",
        "x": [round(100 * saving.ratio, 2) for _, saving in found],
        "y": [name for name, _ in found],
        "text": [f"{saving.ratio:.0%}, {saving.n_pairs} pairs" for _, saving in found],
        "textposition": "top center",
        "cliponaxis": False,
        "marker": {"color": "@blue", "size": 12, "symbol": "diamond"},
        "error_x": errors,
        "hovertemplate": "%{y}: %{x:.1f} %<extra></extra>",
    }
    layout = {
        "showlegend": False,
        "xaxis": {"title": {"text": "% of the steps from initial"}, "rangemode": "tozero"},
        "yaxis": {"range": [-0.6, len(found) - 0.3]},
        "shapes": [draw_line("x", 100.0)],
    }
    caption = (
        "Candidates that were relaxed from both starts. Bars: 95 % interval from pairs drawn again. Left of the dashed "
        "line is saved."
    )
    return [Figure("savings-ratio", "Savings by prediction", caption, [data], layout, low=True)]


def draw_parity(relaxed: Sequence[Relaxed]) -> list[Figure]:
    """Volumes and lattice lengths, initial and predicted against relaxed; None without relaxed candidates."""
    volumes: dict[str, list[tuple[float, float, str, int]]] = {"initial": [], "predicted": []}
    lengths: dict[str, list[tuple[float, float, str, int]]] = {"initial": [], "predicted": []}
    for one in relaxed:
        result = one.outcome.result
        if result is None:
            continue
        for kind, structure in (("initial", one.prediction.initial), ("predicted", one.prediction.structure)):
            if structure is None:
                continue
            n = len(structure)
            volumes[kind].append((result.relaxed.volume / n, structure.volume / n, one.name, one.row))
            pairs = zip("abc", result.relaxed.lattice.abc, structure.lattice.abc, strict=True)
            lengths[kind] += [(x, y, f"{one.name}, {axis}", one.row) for axis, x, y in pairs]
    return [
        *_draw_parity_figure("parity-volume", "Volume", "Å³ per atom", volumes),
        *_draw_parity_figure("parity-lengths", "Lattice lengths", "Å", lengths),
    ]


def draw_displacements(relaxed: Sequence[Relaxed]) -> list[Figure]:
    """How far initial and predicted atoms are from the relaxed ones, as two histograms over the same bins."""
    pairs = [
        (one.outcome.initial_errors.displacement, one.outcome.prediction_errors.displacement)
        for one in relaxed
        if one.outcome.initial_errors and one.outcome.prediction_errors
    ]
    if not pairs:
        return []
    values = np.array(pairs)
    edges = np.linspace(0.0, max(float(values.max()), 1e-3), N_BINS + 1)
    middles = [round(float(value), 5) for value in (edges[1:] + edges[:-1]) / 2]
    data = []
    for column, style, pattern in ((0, INITIAL, "/"), (1, PREDICTED, "")):
        counts = np.histogram(values[:, column], edges)[0]
        color = style["marker"]["color"]
        marker = {"color": color, "pattern": {"shape": pattern, "fgopacity": 0.9}, "line": {"color": color, "width": 1}}
        data.append(
            {
                "type": "bar",
                "name": style["name"],
                "x": middles,
                "y": [int(count) for count in counts],
                "marker": marker | {"opacity": 0.6},
                "hovertemplate": "%{y} near %{x:.3f} Å<extra></extra>",
            }
        )
    layout = {
        "barmode": "overlay",
        "bargap": 0,
        "xaxis": {"title": {"text": "mean displacement, Å"}},
        "yaxis": {"title": {"text": "candidates"}},
    }
    caption = f"{len(pairs)} candidates; distance from the relaxed structure, mean over atoms, drift removed."
    return [Figure("displacements", "Displacements", caption, data, layout)]


def draw_scores(relaxed: Sequence[Relaxed]) -> list[Figure]:
    """The true error of predictions against their score, with the guard's limit if one was set."""
    series = _split_by_verdict(relaxed, lambda prediction: prediction.score)
    if not series:
        return []
    limits = _list_values(one.prediction.options.guards.max_score for one in relaxed)
    layout = {
        "xaxis": {"title": {"text": "score, Å"}, **lay_log_axis(x for trace in series for x in trace["x"])},
        "yaxis": {"title": {"text": "error, Å"}, **lay_log_axis(y for trace in series for y in trace["y"])},
        "shapes": [draw_line("x", limit) for limit in limits],
    }
    words = ", ".join(f"{limit:g} Å" for limit in limits)
    caption = (
        "Score: the move of one more application of the network. Error: displacement + 2.5 Å · strain to the "
        f"relaxed structure. {f'Dashed: limit of the guard, {words}.' if limits else 'No limit on the score was set.'}"
    )
    return [Figure("scores", "Error against score", caption, series, layout)]


def draw_harm(relaxed: Sequence[Relaxed], thresholds: Sequence[float]) -> list[Figure]:
    """Whether predictions are nearer than their starts, against the probability that they are not."""
    series = _split_by_verdict(relaxed, lambda prediction: prediction.harm_probability, relative=True)
    if not series:
        return []
    layout = {
        "xaxis": {"title": {"text": "probability of harm"}, "rangemode": "tozero"},
        "yaxis": {
            "title": {"text": "error / error of initial"},
            **lay_log_axis(y for trace in series for y in trace["y"]),
        },
        "shapes": [draw_line("y", 1.0), *(draw_line("x", limit) for limit in thresholds)],
    }
    words = ", ".join(f"{limit:.3g}" for limit in thresholds)
    line = f" and, upright, the guard's threshold, {words}: to its right predictions are refused" if words else ""
    caption = f"Below 1 the prediction is nearer to the relaxed structure than the initial one. Dashed: 1{line}."
    return [Figure("harm", "Gain against the guard's probability of harm", caption, series, layout)]


def lay_log_axis(values: Iterable[float]) -> dict[str, Any]:
    """A logarithmic axis with as many ticks as fit on a phone: 1, 2, 5; or 1, 3; or powers of ten."""
    logs = np.log10([value for value in values if value > 0] or [1.0])
    first, last = int(np.floor(logs.min())), int(np.ceil(logs.max()))
    for digits in ((1, 2, 5), (1, 3), (1,)):
        ticks = [digit * 10.0**power for power in range(first, last + 1) for digit in digits]
        if sum(logs.min() <= np.log10(tick) <= logs.max() for tick in ticks) <= MAX_LOG_LABELS:
            break
    return {"type": "log", "tickformat": "~g", "tickvals": [float(f"{tick:.1e}") for tick in ticks]}


def measure_error(errors: StructureErrors) -> float:
    """Displacement + 2.5 Å · strain, Å: the error that predictions are calibrated for."""
    return errors.displacement + STRAIN_WEIGHT_ANGSTROM * errors.strain


def thin_points(points: Points) -> Points:
    """At most `MAX_POINTS` of them: those furthest from the diagonal, and others evenly sampled."""
    n = len(points.x)
    if n <= MAX_POINTS:
        return points
    order = np.argsort(-np.abs(np.array(points.x) - np.array(points.y)), kind="stable")
    others = order[MAX_OUTLIERS:]
    evenly = others[np.linspace(0, len(others) - 1, MAX_POINTS - MAX_OUTLIERS).astype(int)]
    kept = sorted({*order[:MAX_OUTLIERS].tolist(), *evenly.tolist()})
    return Points(*([values[i] for i in kept] for values in (points.x, points.y, points.names, points.rows)))


def _draw_parity_figure(
    id: str, title: str, unit: str, series: dict[str, list[tuple[float, float, str, int]]]
) -> list[Figure]:
    if not any(series.values()):
        return []
    data = []
    for style in (INITIAL, PREDICTED):
        rows = series[style["name"]]
        points = thin_points(Points(*(list(column) for column in zip(*rows, strict=True)))) if rows else None
        if points is not None:
            data.append(style | place_points(points))
    low = min(min(*trace["x"], *trace["y"]) for trace in data)
    high = max(max(*trace["x"], *trace["y"]) for trace in data)
    diagonal = {"type": "line", "x0": low, "y0": low, "x1": high, "y1": high, "line": {"color": "@grey", "dash": "dot"}}
    layout = {
        "xaxis": {"title": {"text": f"relaxed, {unit}"}},
        "yaxis": {"title": {"text": f"initial, predicted, {unit}"}},
        "shapes": [diagonal | {"layer": "below"}],
    }
    n = max(len(rows) for rows in series.values())
    shown = max(len(trace["x"]) for trace in data)
    few = f" {shown:,} of {n:,} are drawn, including those furthest off." if shown < n else ""
    caption = f"On the dotted line a structure is exact.{few} A click opens the candidate."
    return [Figure(id, f"{title}: against relaxed", caption, data, layout)]


def place_points(points: Points) -> dict[str, Any]:
    """Points as a trace; a click on one opens the candidate of its row."""
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [round_number(value, 4) for value in points.x],
        "y": [round_number(value, 4) for value in points.y],
        "text": [escape(name, quote=False) for name in points.names],
        "customdata": points.rows,
        "hovertemplate": "%{text}<br>%{x:.4g}, %{y:.4g}<extra></extra>",
    }


def _split_by_verdict(relaxed: Sequence[Relaxed], value: Any, relative: bool = False) -> list[dict[str, Any]]:
    """Errors of predictions against a value of theirs, accepted and refused ones as two series."""
    styles = (
        (Verdict.ACCEPT, {"name": "accepted", "marker": {"color": "@blue", "symbol": "circle", "size": 7}}),
        (Verdict.REFUSE, {"name": "refused", "marker": {"color": "@orange", "symbol": "x-thin-open", "size": 8}}),
    )
    data = []
    for verdict, style in styles:
        rows = []
        for one in relaxed:
            x, errors, start = value(one.prediction), one.outcome.prediction_errors, one.outcome.initial_errors
            if one.prediction.verdict != verdict or x is None or errors is None or start is None:
                continue
            y = measure_error(errors) / (max(measure_error(start), 1e-6) if relative else 1.0)
            rows.append((max(x, 1e-6), max(y, 1e-6), one.name, one.row))
        if rows:
            points = thin_points(Points(*(list(column) for column in zip(*rows, strict=True))))
            data.append(style | place_points(points))
    return data


def _draw_bars(names: Sequence[str], counts: Sequence[int], lost: Sequence[bool]) -> dict[str, Any]:
    return {
        "type": "bar",
        "orientation": "h",
        "y": list(names),
        "x": list(counts),
        "text": [f"{count:,}" for count in counts],
        "textposition": "outside",
        "cliponaxis": False,
        "marker": {
            "color": ["@orange" if is_lost else "@blue" for is_lost in lost],
            "pattern": {"shape": ["/" if is_lost else "" for is_lost in lost], "fillmode": "replace"},
        },
        "hovertemplate": "%{y}: %{x}<extra></extra>",
    }


def _layout_bars(n: int, title: str) -> dict[str, Any]:
    return {
        "xaxis": {"title": {"text": title}, "rangemode": "tozero"},
        "yaxis": {"autorange": "reversed"},
        "margin": {"r": 55},
        "bargap": 0.3 if n > 3 else 0.75,
    }


def draw_line(axis: str, value: float) -> dict[str, Any]:
    """A dashed line through the figure at one value of an axis."""
    along, across = (axis, "y") if axis == "x" else (axis, "x")
    return {
        "type": "line",
        f"{along}0": value,
        f"{along}1": value,
        f"{across}0": 0,
        f"{across}1": 1,
        f"{across}ref": f"{across} domain",
        "line": {"color": "@grey", "width": 2, "dash": "dash"},
    }


def _measure_end(saving: PairedSaving, end: float | None) -> float:
    return 0.0 if end is None else round(100 * abs(end - saving.ratio), 2)


def _list_values(values: Any) -> list[float]:
    return sorted({value for value in values if value is not None})
