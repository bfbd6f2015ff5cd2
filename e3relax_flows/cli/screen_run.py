"""Run a screen on this machine with its progress shown, and leave a table and a page of it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pymatgen.core import Structure
from rich.box import SIMPLE_HEAD
from rich.progress import Progress as ProgressBar
from rich.progress import TaskID
from rich.table import Table

from e3relax_flows.candidates.reading import ReadItem
from e3relax_flows.cli import console
from e3relax_flows.core.settings import E3RelaxSettings
from e3relax_flows.ledger.savings import summarize_savings
from e3relax_flows.ledger.store import open_stores
from e3relax_flows.ledger.workspace import open_workspace
from e3relax_flows.places.local import JobReport
from e3relax_flows.prerelax.predict import PREDICT_JOB
from e3relax_flows.prerelax.record import OUTCOME_JOB
from e3relax_flows.prerelax.relax import CLAIM_JOB
from e3relax_flows.report.collecting import collect_screen
from e3relax_flows.report.html import write_screen_page
from e3relax_flows.report.tables import (
    ScreenTable,
    TableRow,
    build_table,
    describe_arms,
    describe_medians,
    describe_savings,
)
from e3relax_flows.schemas.screens import CandidateState, ScreenDoc, ScreenLimits, ScreenPhase, count_states
from e3relax_flows.screening.control import Progress, resume_screen, start_screen
from e3relax_flows.screening.local import run_screen_here
from e3relax_flows.screening.maker import ScreenMaker
from e3relax_flows.screening.register import register_screen
from e3relax_flows.screening.store import count_rows, find_rows, find_screen, load_screen, open_screen_stores

if TYPE_CHECKING:
    from e3relax_flows.schemas.screens import ScreenConfig

PAGE_FILE, DOCUMENT_FILE, JOBS_DIR = "report.html", "screen.json", "jobs"
MAX_ROWS = 200
MAX_ERRORS = 5
MAX_NOTE = 30  # characters of a note in the table
IDS = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}(, )?")


@dataclass(frozen=True)
class ScreenReport:
    """A screen that has run, and what is shown of it."""

    screen: ScreenDoc
    table: ScreenTable
    savings: str
    page: Path
    arms: tuple[str, ...] = ()


def run_screen(
    maker: ScreenMaker, structures: Sequence[Structure], ids: Sequence[str], settings: E3RelaxSettings, out: Path
) -> ScreenReport:
    """Run the screen of some structures; see `run_candidates`.

    Examples
    --------
    Two metals in cells that are too large, relaxed from prediction and initial structure:

    >>> from pathlib import Path
    >>> from pymatgen.core import Lattice, Structure
    >>> from e3relax_flows import PrerelaxMaker, ScreenMaker, load_settings, run_screen
    >>> from e3relax_flows.testing import EmtEngine
    >>> metals = [
    ...     Structure.from_spacegroup("Fm-3m", Lattice.cubic(a), [metal], [[0, 0, 0]]).get_primitive_structure()
    ...     for metal, a in (("Cu", 3.8), ("Ag", 4.3))
    ... ]
    >>> maker = ScreenMaker(prerelax=PrerelaxMaker(device="cpu"), engine=EmtEngine(), control=1.0)
    >>> report = run_screen(maker, metals, ["copper", "silver"], load_settings(), Path("runs/metals"))
    >>> [str(row.state) for row in report.screen.candidates]
    ['successful', 'successful']
    >>> report.page.name
    'report.html'
    """
    return run_candidates(maker, [ReadItem(*item, None) for item in zip(ids, structures, strict=True)], settings, out)


def run_candidates(
    maker: ScreenMaker,
    items: Iterable[ReadItem],
    settings: E3RelaxSettings,
    out: Path,
    config: ScreenConfig | None = None,
) -> ScreenReport:
    """Run a screen here with progress on stderr, and write its page and document into `out`.

    What an earlier run of the same screen has done is not done again.

    Parameters
    ----------
    maker
        How to screen.
    items
        Candidates.
    settings
        For the stores.
    out
        Folder to write into.
    config
        For its ranking and limits.

    Raises
    ------
    ConfigError
        When nothing could be read.
    ModelError
        When there is no such model.
    """
    with open_workspace(settings) as workspace:
        workspace.get(open_stores)  # a store that cannot be had is one message now, not one of every job
        out.mkdir(parents=True, exist_ok=True)  # nor is a screen registered whose page could not be written
        with console.hide_warnings():
            stores, ranking = workspace.get(open_screen_stores), config.ranking if config else None
            screen, is_new = register_screen(stores, maker, console.show_notes(items), settings, ranking)
        screen_id = str(screen.screen_id)
        if not is_new:
            message = f"screen {screen_id} was there already: what it has is not computed again"
            console.err.print(message, highlight=False)
        if config is not None or not is_new:
            limits = config.limits if config else None
            prepare_again(screen_id, settings, limits, maker.retry_failed)
        return finish_here(screen_id, settings, out)


def submit_candidates(
    maker: ScreenMaker,
    items: Iterable[ReadItem],
    config: ScreenConfig,
    settings: E3RelaxSettings,
    where: str,
    as_json: bool = False,
) -> int:
    """Leave a screen to the workers of another place; the exit code."""
    with console.hide_warnings(), open_screen_stores(settings) as stores:
        screen, _ = register_screen(stores, maker, console.show_notes(items), settings, config.ranking, where)
        screen_id = str(screen.screen_id)
        unread = find_rows(stores, screen_id, [CandidateState.ERROR], {"chunk": None})
    for row in unread:
        console.print_error(f"{row.id}: {row.message}")
    with open_workspace(settings):
        prepare_again(screen_id, settings, config.limits, config.retry_failed)
        show_progress(start_screen(screen_id, settings), settings, as_json)
    return int(len(unread) > 0)


def prepare_again(
    screen_id: str,
    settings: E3RelaxSettings,
    limits: ScreenLimits | None,
    retry_failed: bool,
    error: str | None = None,
) -> None:
    """Requeue what an earlier run has left; nothing where there was none."""
    for line in resume_screen(screen_id, settings, limits, retry_failed, error).lines:
        console.err.print(line, highlight=False, markup=False)


def finish_here(screen_id: str, settings: E3RelaxSettings, out: Path) -> ScreenReport:
    """Run what is left of a screen in this process, and report it."""
    failures: list[JobReport] = []
    with console.make_progress() as progress, console.hide_warnings():
        watcher = _ScreenWatcher(progress, screen_id, settings, failures)
        try:
            run_screen_here(screen_id, settings, out / JOBS_DIR, watcher.note)
        except KeyboardInterrupt:
            progress.stop()
            console.print_error(f"interrupted; `e3relax screen resume {screen_id} --out {out}` goes on")
            raise
    _remove_empty_folders(out / JOBS_DIR)
    _print_failures(failures)
    with open_screen_stores(settings) as stores:
        screen = load_screen(stores, screen_id)
    return report_screen(screen, settings, out)


def show_progress(progress: Progress, settings: E3RelaxSettings, as_json: bool = False) -> None:
    """Print what starting, resuming or cancelling a screen has done, and how it stands; as JSON that stands alone."""
    out = console.err if as_json else console.out
    for warning in progress.warnings:
        console.err.print(warning, style="yellow", soft_wrap=True, markup=False, highlight=False)
    for line in progress.lines:
        out.print(line, highlight=False, soft_wrap=True, markup=False)
    with open_screen_stores(settings) as stores:
        counts = count_rows(stores, str(progress.screen.screen_id))
    if as_json:
        console.print_json(dump_screen(progress.screen, counts))
    else:
        out.print(describe_screen(progress.screen, counts), highlight=False, soft_wrap=True, markup=False)


def dump_screen(screen: ScreenDoc, counts: dict[str, int]) -> dict[str, Any]:
    """What a program wants to know of a screen."""
    kept = {"maker", "candidates", "counts"}
    return {**screen.model_dump(mode="json", exclude=kept), "counts": counts}


def describe_screen(screen: ScreenDoc, counts: dict[str, int]) -> str:
    """One line: id, phase, candidates by state, and what to type."""
    words = ", ".join(f"{count} {state}" for state, count in counts.items())
    reason = f" ({screen.message})" if screen.message else ""
    hint = "" if screen.phase == ScreenPhase.FINISHED else f"; see: e3relax screen status {screen.screen_id}"
    return f"screen {screen.screen_id} is {screen.phase}{reason}: {words}{hint}"


def _print_failures(failures: Sequence[JobReport]) -> None:
    """Print our own jobs that failed, and of those of the engine, which the table lists, each error once."""
    for failure in failures:
        if failure.name.startswith("e3r "):
            console.print_error(f"{failure.name}: {failure.error}")
    counts = Counter((failure.name, failure.error) for failure in failures if not failure.name.startswith("e3r "))
    for (name, error), count in counts.most_common(MAX_ERRORS):
        console.print_error(f"{name}: {error}{f' ({count} jobs)' if count > 1 else ''}")


def report_screen(screen: ScreenDoc, settings: E3RelaxSettings, out: Path) -> ScreenReport:
    """Join a screen with the documents it names, and write its page and document into `out`."""
    documents = collect_screen(screen, settings)
    table = build_table(screen, documents.predictions.values(), documents.outcomes.values())
    summary = summarize_savings(documents.outcomes.values())
    savings = describe_savings(summary)
    page = write_screen_page(out / PAGE_FILE, screen, table, savings, documents)
    (out / DOCUMENT_FILE).write_text(screen.model_dump_json(indent=1), encoding="utf-8")
    return ScreenReport(screen, table, savings, page, tuple(describe_arms(summary)))


def show_screen(report: ScreenReport, as_json: bool = False) -> None:
    """Print the table, the sums and the path of the page on stdout, or a document for programs."""
    table = report.table
    if as_json:
        files = {"page": str(report.page), "document": str(report.page.with_name(DOCUMENT_FILE))}
        console.print_json({**dump_screen(report.screen, count_states(report.screen.candidates)), **files})
        return
    console.out.print(build_rich_table(table))
    if len(table.rows) > MAX_ROWS:
        console.out.print(f"... and {len(table.rows) - MAX_ROWS} more: all are on the page")
    _show_notes(table.rows[:MAX_ROWS])
    console.out.print("Displacements are those from the relaxed structure, means over atoms.", style="dim")
    if any(row.steps_from_initial is not None and not row.initial_is_control for row in table.rows):
        console.out.print("† refused, so relaxed from the initial structure; no control.", style="dim")
    console.out.print(", ".join(f"{count} {name}" for name, count in table.funnel) + ".", highlight=False)
    reused = sum(outcome.reused for row in report.screen.candidates for outcome in row.outcomes)
    if reused:
        console.out.print(f"{reused} outcomes were in the store already and were not computed again.", highlight=False)
    if any(row.state == CandidateState.FAILED for row in report.screen.candidates):
        console.out.print(
            "What failed is not tried again by itself: correct the cause and run `e3relax screen` with --retry-failed.",
            highlight=False,
        )
    for text in (describe_medians(table), report.savings, *report.arms):
        if text:
            console.out.print(text, highlight=False)
    console.out.print(f"Page: {report.page}", highlight=False, soft_wrap=True)


def build_rich_table(table: ScreenTable) -> Table:
    """The rows for a terminal, the first `MAX_ROWS` of them."""
    rich_table = Table(
        title=f"initial → predicted → relaxed with {table.engine_label}", title_justify="left", box=SIMPLE_HEAD
    )
    rich_table.add_column("candidate", overflow="fold", min_width=len("candidate"))
    rich_table.add_column("verdict", no_wrap=True)
    rich_table.add_column("volume Å³/atom\ninit. → pred. → relaxed", justify="right", min_width=len("22.58 → 21.00"))
    rich_table.add_column("displaced Å\ninit. → pred.", justify="right", min_width=len("displaced"))
    starts = f"{'pol. | ' if table.has_polished else ''}pred. | init."
    rich_table.add_column(f"ionic steps\n{starts}", justify="right", no_wrap=True)
    if table.has_scf:
        rich_table.add_column(f"SCF steps\n{starts}", justify="right", no_wrap=True)
    rich_table.add_column("relaxation", overflow="fold", min_width=10)
    for row in table.rows[:MAX_ROWS]:
        rich_table.add_row(*_format_row(row, table))
    return rich_table


def has_errors(screen: ScreenDoc) -> bool:
    """Whether a candidate has no prediction or a failed relaxation."""
    return any(row.state in (CandidateState.ERROR, CandidateState.FAILED) for row in screen.candidates)


def _format_row(row: TableRow, table: ScreenTable) -> list[Any]:
    mark = "†" if row.steps_from_initial is not None and not row.initial_is_control else ""
    volumes = (row.initial_volume, row.predicted_volume, row.relaxed_volume)
    displacements = (row.initial_displacement, row.predicted_displacement)
    cells: list[Any] = [
        console.plain(row.id),
        console.color_word(row.verdict),
        " → ".join(f"{console.format_number(volume, 2):>5}" for volume in volumes),
        " → ".join(console.format_number(displacement, 3) for displacement in displacements),
        _format_steps(table, row.steps_from_polished, row.steps_from_predicted, row.steps_from_initial) + mark,
    ]
    if table.has_scf:
        cells.append(_format_steps(table, row.scf_from_polished, row.scf_from_predicted, row.scf_from_initial))
    state = console.color_word(row.state)
    return [*cells, state.append(f" ({row.note})", style="dim") if row.note and not _is_long(row) else state]


def _is_long(row: TableRow) -> bool:
    """Whether a note is a sentence, which stands below the table."""
    return len(row.note) > MAX_NOTE and row.state != CandidateState.DUPLICATE


def _show_notes(rows: Sequence[TableRow]) -> None:
    """The notes for which the table has no room, each once with the candidates that have it."""
    names: dict[str, list[TableRow]] = {}
    for row in filter(_is_long, rows):
        names.setdefault(IDS.sub("…", row.note), []).append(row)
    for found in list(names.values())[:MAX_ERRORS]:
        more = f" and {len(found) - 1} more" if len(found) > 1 else ""
        note = found[0].note if found[0].id in found[0].note else f"{found[0].id}{more}: {found[0].note}"
        console.out.print(console.plain(note), soft_wrap=True)
    if len(names) > MAX_ERRORS:
        console.out.print(f"... and {len(names) - MAX_ERRORS} more: all are on the page", highlight=False)


def _format_steps(table: ScreenTable, polished: int | None, predicted: int | None, initial: int | None) -> str:
    first = f"{console.format_number(polished, 0)} | " if table.has_polished else ""
    return f"{first}{console.format_number(predicted, 0):>{3 if first else 1}} | {console.format_number(initial, 0):>3}"


def _remove_empty_folders(root: Path) -> None:
    """Remove the folders of jobs that left no files."""
    for folder in root.glob("job_*"):
        with suppress(OSError):
            folder.rmdir()


@dataclass
class _ScreenWatcher:
    """Turns the ends of jobs into progress: chunks that are predicted, then relaxations."""

    progress: ProgressBar
    screen_id: str
    settings: E3RelaxSettings
    failures: list[JobReport]
    _task: TaskID | None = None

    def __post_init__(self) -> None:
        with open_screen_stores(self.settings) as stores:
            waiting = {row.chunk for row in find_rows(stores, self.screen_id, [CandidateState.WAITING])}
        if waiting:
            self._task = self.progress.add_task("predicting", total=len(waiting), note="")
        self._is_relaxing = False

    def note(self, report: JobReport) -> None:
        """Count one job."""
        if report.error is not None:
            self.failures.append(report)
        if report.name == PREDICT_JOB and self._task is not None:
            self.progress.update(self._task, advance=1)
        elif report.name == CLAIM_JOB and not self._is_relaxing:
            self._begin_relaxing()
        elif report.name == OUTCOME_JOB and self._task is not None:
            kind = report.metadata.get("start_kind", "")
            self.progress.update(self._task, advance=1, note=f"{report.metadata.get('candidate', '')} ({kind})")

    def _begin_relaxing(self) -> None:
        if self._task is not None:
            self.progress.remove_task(self._task)
        with open_screen_stores(self.settings) as stores:
            engine = find_screen(stores, self.screen_id).engine
            rows = find_rows(stores, self.screen_id, [CandidateState.PLANNED, CandidateState.SUBMITTED])
        planned = sum(outcome.state is None for row in rows for outcome in row.outcomes)
        self._task = self.progress.add_task(f"relaxing with {engine}", total=planned, note="")
        self._is_relaxing = True
