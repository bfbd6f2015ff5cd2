"""`e3relax screen watch ID`: a live view of a screen from its stores, and of its workers; nothing is changed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from e3relax_flows.cli.options import JsonOption
from e3relax_flows.core.errors import ConfigError, E3RelaxError
from e3relax_flows.report import console

if TYPE_CHECKING:
    from rich.console import Group

    from e3relax_flows.ledger.workspace import Workspace
    from e3relax_flows.screening.watching import ScreenView

SHARE = 10  # factor of the reading time before the next reading
MAX_MESSAGE = 160


def watch(
    name: Annotated[str, typer.Argument(help="Id of a screen, the first digits of it, or its name.", metavar="ID")],
    once: Annotated[bool, typer.Option("--once", help="Print it once, for scripts and logs.")] = False,
    every: Annotated[float, typer.Option(help="Seconds between two updates.", min=0.5, metavar="SECONDS")] = 5.0,
    as_json: JsonOption = False,
) -> None:
    """Watch a screen: candidates by state, rate, time left, workers, savings so far, the last failures.

    It changes nothing. Ctrl-C ends the view, not the screen; the view ends with the screen.
    """
    from e3relax_flows.ledger.workspace import open_workspace
    from e3relax_flows.screening.store import open_screen_stores
    from e3relax_flows.screening.watching import view_screen

    if not (once or as_json or console.out.is_terminal):
        raise ConfigError("the output is not a terminal; add --once, or --json, for a view of this moment")
    with open_workspace() as workspace:
        stores, outcomes = workspace.get(open_screen_stores), workspace.outcomes
        view = view_screen(stores, outcomes, name)
        if as_json:
            console.print_json({**dump_view(view), "workers": list_workers(view, workspace)})
            return
        if once:
            console.out.print(render_view(view, list_workers(view, workspace)))
            return
        from rich.live import Live

        first = render_view(view, list_workers(view, workspace))
        with suppress(KeyboardInterrupt), Live(first, console=console.out, auto_refresh=False) as live:
            while not view.has_ended:
                began = time.monotonic()
                view = view_screen(stores, outcomes, str(view.screen.screen_id))
                live.update(render_view(view, list_workers(view, workspace)), refresh=True)
                time.sleep(max(every, SHARE * (time.monotonic() - began)))


def list_workers(view: ScreenView, workspace: Workspace) -> list[str]:
    """Ready jobs and the last ping of a worker, as in `status`; empty for a finished screen.

    A manager that does not answer does not end the view.
    """
    from e3relax_flows.screening.watching import describe_workers

    if view.has_ended:
        return []
    try:
        return describe_workers(view.screen, workspace)
    except E3RelaxError as error:
        return [f"workers are not known: {error}"]


def dump_view(view: ScreenView) -> dict[str, Any]:
    """The view as values for JSON."""
    from e3relax_flows.report.terminal import dump_screen

    savings = {"ionic": view.ionic, "electronic": view.electronic}
    return {
        **dump_screen(view.screen, view.counts),
        "per_hour": view.per_hour,
        "seconds_left": view.seconds_left,
        "savings": {key: saving.model_dump() if saving else None for key, saving in savings.items()},
        "failures": [
            {**asdict(failure), "moment": failure.moment.isoformat() if failure.moment else None}
            for failure in view.failures
        ],
    }


def render_view(view: ScreenView, workers: Sequence[str] = ()) -> Group:
    """Lines and tables for a terminal; `workers` are lines on those of its place."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Group
    from rich.table import Table

    screen, total = view.screen, sum(view.counts.values())
    reason = f", {screen.message}" if screen.message else ""
    head = f"{screen.name} ({screen.screen_id}), {screen.place}: {screen.phase}{reason}; engine {screen.engine}"
    funnel = Table(box=SIMPLE_HEAD, show_header=False)
    funnel.add_column("state")
    funnel.add_column("candidates", justify="right")
    funnel.add_column("bar")
    for state, count in view.counts.items():
        funnel.add_row(console.color_word(state), str(count), "█" * max(round(40 * count / max(total, 1)), 1))
    lines: list[Any] = [console.plain(head), funnel, console.plain(_describe_pace(view))]
    lines += map(console.plain, workers)
    lines += map(console.plain, _list_savings(view))
    if view.failures:
        failures = Table(box=SIMPLE_HEAD, title="last failures", title_justify="left")
        for title in ("candidate", "state", "error"):
            failures.add_column(title, overflow="fold")
        for failure in view.failures:
            cells = (console.plain(failure.id), console.color_word(failure.state))
            failures.add_row(*cells, console.plain(failure.message[:MAX_MESSAGE]))
        lines.append(failures)
    return Group(*lines)


def _describe_pace(view: ScreenView) -> str:
    limits = view.screen.limits
    spent = f"{view.screen.core_hours:.2f} core hours" + (f" of {limits.core_hours:g}" if limits.core_hours else "")
    if view.per_hour is None or view.seconds_left is None:
        return f"{sum(view.counts.values())} candidates, {spent}"
    minutes = view.seconds_left / 60
    left = f"{minutes / 60:.1f} h" if minutes >= 90 else f"{minutes:.0f} min" if minutes >= 1 else "less than a minute"
    return f"{sum(view.counts.values())} candidates, {view.per_hour:.3g} per hour, {left} left, {spent}"


def _list_savings(view: ScreenView) -> list[str]:
    from e3relax_flows.report.tables import describe_ratio

    named = ((view.ionic, "ionic steps"), (view.electronic, "electronic (SCF) steps"))
    start = "served" if view.has_polished else "predicted"
    return [describe_ratio(saving, what, start) for saving, what in named if saving is not None]
