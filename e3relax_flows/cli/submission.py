"""Submit flows and screens from the command line: warnings on stderr, what was done on stdout."""

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
from e3relax_flows.screening.control import ScreenProgress, start_screen
from e3relax_flows.screening.maker import ScreenMaker
from e3relax_flows.screening.register import register_screen
from e3relax_flows.screening.run import prepare_again
from e3relax_flows.screening.store import ScreenStores, count_rows, find_rows, open_screen_stores


def submit_shown(flow: Any, where: str, settings: E3RelaxSettings, samples: Sequence[Any] = ()) -> None:
    """Submit a flow to a place other than this process, and say what was done; see `submit`."""
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
    """Leave a screen to the workers of another place; the exit code."""
    stores = workspace.get(open_screen_stores)
    with console.hide_warnings():
        candidates = console.show_notes(items)
        screen, is_new = register_screen(stores, maker, candidates, workspace, config.ranking, where, config.limits)
    screen_id = str(screen.screen_id)
    unread = find_rows(stores, screen_id, [CandidateState.ERROR], {"chunk": None})
    for row in unread:
        console.print_error(f"{row.id}: {row.message}")
    if not is_new:
        prepare_again(screen_id, workspace, config.limits, config.retry_failed)
    show_progress(start_screen(screen_id, workspace), stores, as_json)
    return int(len(unread) > 0)


def show_progress(progress: ScreenProgress, stores: ScreenStores, as_json: bool = False) -> None:
    """Print what starting, resuming or cancelling a screen has done, and how it stands; as JSON that stands alone."""
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
