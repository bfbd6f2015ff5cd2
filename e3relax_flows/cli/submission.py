"""Submit flows and screens from the command line: warnings on stderr, results on stdout."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from e3relax_flows.candidates.reading import ReadItem
from e3relax_flows.core.settings import E3RelaxSettings
from e3relax_flows.ledger.workspace import Workspace
from e3relax_flows.places.submission import submit
from e3relax_flows.report import console
from e3relax_flows.report.terminal import describe_screen, dump_screen
from e3relax_flows.schemas.screens import CandidateState, ScreenConfig
from e3relax_flows.screening.control import ScreenProgress
from e3relax_flows.screening.maker import ScreenMaker
from e3relax_flows.screening.store import ScreenStores, count_rows, find_rows, open_screen_stores
from e3relax_flows.screening.submission import submit_screen


def submit_shown(flow: Any, where: str, settings: E3RelaxSettings, samples: Sequence[Any] = ()) -> None:
    """Submit a flow to a place other than this process, and print the result; see `submit`."""
    with console.hide_warnings():
        submission = submit(flow, where, settings=settings, samples=samples)  # type: ignore[arg-type]
    for warning in submission.warnings:
        console.err.print(warning, style="yellow", soft_wrap=True, markup=False, highlight=False)
    console.out.print(submission.describe(), highlight=False, soft_wrap=True, markup=False)


def submit_candidates(
    maker: ScreenMaker,
    items: Iterable[ReadItem],
    config: ScreenConfig,
    workspace: Workspace,
    where: str,
    as_json: bool = False,
) -> int:
    """Submit a screen to the workers of another place; return the exit code."""
    with console.hide_warnings():
        progress = submit_screen(maker, console.show_notes(items), where, workspace, config.limits, config.ranking)
    stores = workspace.get(open_screen_stores)
    unread = find_rows(stores, str(progress.screen.screen_id), [CandidateState.ERROR], {"chunk": None})
    for row in unread:
        console.print_error(f"{row.id}: {row.message}")
    show_progress(progress, stores, as_json)
    return int(len(unread) > 0)


def show_progress(progress: ScreenProgress, stores: ScreenStores, as_json: bool = False) -> None:
    """Print the result of starting, resuming or cancelling a screen, and its state; with `as_json` only JSON."""
    out = console.err if as_json else console.out
    for warning in progress.warnings:
        console.err.print(warning, style="yellow", soft_wrap=True, markup=False, highlight=False)
    for line in progress.lines:
        out.print(line, highlight=False, soft_wrap=True, markup=False)
    counts = count_rows(stores, str(progress.screen.screen_id))
    if as_json:
        console.print_json(dump_screen(progress.screen, counts))
    else:
        out.print(describe_screen(progress.screen, counts), highlight=False, soft_wrap=True, markup=False)
