"""One self-contained HTML page of a screen: no scripts, nothing loaded, every text escaped."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from e3relax_flows.report.tables import ScreenTable, TableRow, describe_medians
from e3relax_flows.schemas.predictions import Verdict
from e3relax_flows.schemas.screens import ScreenDoc

WIDTH, LEFT, RIGHT, ROW_HEIGHT, TOP, BOTTOM = 960, 330, 30, 22, 20, 34
MAX_CHART_ROWS = 60
TICK_STEPS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


@dataclass(frozen=True)
class Tick:
    """A vertical line of the chart."""

    x: float
    text: str
    zero: bool


@dataclass(frozen=True)
class ChartRow:
    """One candidate of the chart; positions in units of the drawing."""

    name: str
    text: str
    y: float
    initial: float
    predicted: float


@dataclass(frozen=True)
class VolumeChart:
    """Where the volumes of initial and predicted structures lie, relative to the relaxed ones."""

    rows: list[ChartRow]
    ticks: list[Tick]
    width: int = WIDTH
    height: int = 0
    left: int = LEFT


def render_screen_page(screen: ScreenDoc, table: ScreenTable, savings: str) -> str:
    """The page as text.

    Parameters
    ----------
    screen
        Its name is the title; its models, seed and versions are told under it.
    table
        What `build_table` made of it.
    savings
        What was saved against the controls, in words.
    """
    environment = Environment(
        loader=PackageLoader("e3relax_flows.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    environment.filters["number"] = format_number
    return environment.get_template("screen.html.j2").render(
        title=screen.name,
        origin=_describe_origin(screen),
        table=table,
        savings=savings,
        medians=describe_medians(table),
        chart=build_volume_chart(table.rows),
        has_scf=any(row.scf_from_predicted is not None or row.scf_from_initial is not None for row in table.rows),
    )


def write_screen_page(path: Path, screen: ScreenDoc, table: ScreenTable, savings: str) -> Path:
    """Write the page to `path`, making its folder; gives the absolute path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render_screen_page(screen, table, savings), encoding="utf-8")
    return path.absolute()


def format_number(value: float | None, digits: int) -> str:
    """A number with `digits` decimals; a dash where there is none."""
    return "–" if value is None else f"{value:.{digits}f}"


def build_volume_chart(rows: list[TableRow]) -> VolumeChart:
    """Positions of the chart of the accepted candidates that were relaxed, the first `MAX_CHART_ROWS` of them."""
    errors = [
        (row.id, row.initial_volume / row.relaxed_volume - 1, row.predicted_volume / row.relaxed_volume - 1)
        for row in rows
        if row.initial_volume
        and row.predicted_volume
        and row.relaxed_volume
        and row.verdict == str(Verdict.ACCEPT)
        and row.predicted_displacement is not None  # only converged relaxations say where the minimum is
    ][:MAX_CHART_ROWS]
    if not errors:
        return VolumeChart([], [])
    values = [value for _, *pair in errors for value in pair]
    low, high = min(0.0, *values), max(0.0, *values)
    margin = max(0.02, 0.05 * (high - low))
    low, high = low - margin, high + margin

    def place(value: float) -> float:
        return round(LEFT + (value - low) / (high - low) * (WIDTH - LEFT - RIGHT), 1)

    step = next((step for step in TICK_STEPS if (high - low) / step <= 8), 10 ** len(f"{high - low:.0f}") / 5)
    ticks = [
        Tick(place(i * step), f"{100 * i * step:+.0f} %" if i else "0", i == 0)
        for i in range(int(low / step), int(high / step) + 1)
    ]
    chart = [
        ChartRow(
            name if len(name) <= 44 else name[:43] + "…",
            f"{name}: initial {initial:+.1%}, predicted {predicted:+.1%}",
            TOP + ROW_HEIGHT * i,
            place(initial),
            place(predicted),
        )
        for i, (name, initial, predicted) in enumerate(errors)
    ]
    return VolumeChart(chart, ticks, height=TOP + ROW_HEIGHT * len(chart) + BOTTOM)


def _describe_origin(screen: ScreenDoc) -> str:
    models = Counter(row.model_id for row in screen.candidates if row.model_id)
    ids = ", ".join(sorted(models)) or "none"
    version = screen.versions.get("e3relax-flows", "")
    return (
        f"{screen.last_updated:%Y-%m-%d %H:%M} UTC · e3relax-flows {version} · model {screen.model} ({ids}) · "
        f"control fraction {screen.control:g}, seed {screen.seed} · refused candidates: {screen.on_refuse}"
    )
