"""Run a screen on this machine with its progress shown, and leave a table and a page of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jobflow import JobStore
from rich.box import SIMPLE_HEAD
from rich.progress import Progress, TaskID
from rich.table import Table

from e3relax_flows.cli import console
from e3relax_flows.core.errors import E3RelaxError
from e3relax_flows.core.settings import E3RelaxSettings
from e3relax_flows.data.outcomes import summarize_savings
from e3relax_flows.data.registry import resolve_model
from e3relax_flows.data.stores import find_outcomes, find_predictions, open_job_store, open_stores
from e3relax_flows.flows.screen import ScreenMaker
from e3relax_flows.jobs.dispatch import PLAN_JOB, SUMMARY_JOB
from e3relax_flows.jobs.outcome import OUTCOME_JOB
from e3relax_flows.jobs.predict import DEFAULT_MODEL, PREDICT_JOB
from e3relax_flows.report.html import write_screen_page
from e3relax_flows.report.tables import ScreenTable, TableRow, build_table, describe_medians, describe_savings
from e3relax_flows.schemas.screens import CandidateState, ScreenDoc
from e3relax_flows.submit.local import JobReport, run_flow_locally

PAGE_FILE, DOCUMENT_FILE, JOBS_DIR = "report.html", "screen.json", "jobs"
MAX_ROWS = 200
MAX_ERRORS = 5


@dataclass(frozen=True)
class ScreenReport:
    """A screen that has run, and what is shown of it."""

    screen: ScreenDoc
    table: ScreenTable
    savings: str
    page: Path


def run_screen(
    maker: ScreenMaker, structures: Sequence[Any], ids: Sequence[str], settings: E3RelaxSettings, out: Path
) -> ScreenReport:
    """Run the flow of a screen with progress on stderr, and write its page and document into `out`.

    Raises
    ------
    ModelError
        When there is no such model.
    E3RelaxError
        When the screen ends without its summary.
    """
    model = maker.prerelax.model
    resolve_model(settings.MODEL if model == DEFAULT_MODEL else model, settings)
    flow = maker.make(structures, ids)
    with open_stores(settings):  # a store that cannot be had is one message now, not one of every job
        pass
    with open_job_store(settings) as jobs, console.make_progress() as progress:
        watcher = _ScreenWatcher(progress, jobs, n_chunks=-(-len(ids) // maker.chunk_size))
        with console.hide_warnings():
            run = run_flow_locally(flow, jobs, out / JOBS_DIR, on_job_finished=watcher.note)
        _remove_empty_folders(out / JOBS_DIR)
        _print_failures(run.failures)
        if watcher.summary is None:
            errors = "; ".join(f"{failure.name}: {failure.error}" for failure in run.failures)
            raise E3RelaxError(f"the screen ended without a summary ({errors or 'no job failed'}); run it again")
        screen = watcher.summary
    return report_screen(screen, settings, out)


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
    with open_stores(settings) as stores:
        ids = [row.prediction_id for row in screen.candidates if row.prediction_id]
        predictions = find_predictions(stores.predictions, ids)
        outcome_ids = [outcome.outcome_id for row in screen.candidates for outcome in row.outcomes]
        outcomes = find_outcomes(stores.outcomes, outcome_ids)
    table = build_table(screen, predictions.values(), outcomes.values())
    savings = describe_savings(summarize_savings(outcomes.values()))
    page = write_screen_page(out / PAGE_FILE, screen, table, savings)
    (out / DOCUMENT_FILE).write_text(screen.model_dump_json(indent=1), encoding="utf-8")
    return ScreenReport(screen, table, savings, page)


def show_screen(report: ScreenReport) -> None:
    """Print the table, the sums and the path of the page on stdout."""
    table = report.table
    console.out.print(build_rich_table(table))
    if len(table.rows) > MAX_ROWS:
        console.out.print(f"... and {len(table.rows) - MAX_ROWS} more: all are on the page")
    console.out.print("Displacements are those from the relaxed structure, means over atoms.", style="dim")
    if any(row.steps_from_initial is not None and not row.initial_is_control for row in table.rows):
        console.out.print("† refused, so relaxed from the initial structure; no control.", style="dim")
    console.out.print(", ".join(f"{count} {name}" for name, count in table.funnel) + ".", highlight=False)
    reused = sum(outcome.reused for row in report.screen.candidates for outcome in row.outcomes)
    if reused:
        console.out.print(f"{reused} outcomes were in the store already and were not computed again.", highlight=False)
    if any(row.state == CandidateState.FAILED for row in report.screen.candidates):
        console.out.print(
            "What failed is not tried again by itself: mend the cause and run `e3relax screen` with --retry-failed.",
            highlight=False,
        )
    for text in (describe_medians(table), report.savings):
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
    rich_table.add_column("ionic steps\npred. | init.", justify="right", no_wrap=True)
    has_scf = any(row.scf_from_predicted is not None or row.scf_from_initial is not None for row in table.rows)
    if has_scf:
        rich_table.add_column("SCF steps\npred. | init.", justify="right", no_wrap=True)
    rich_table.add_column("relaxation", overflow="fold", min_width=10)
    for row in table.rows[:MAX_ROWS]:
        rich_table.add_row(*_format_row(row, has_scf))
    return rich_table


def has_errors(screen: ScreenDoc) -> bool:
    """Whether a candidate has no prediction or a failed relaxation."""
    return any(row.state in (CandidateState.ERROR, CandidateState.FAILED) for row in screen.candidates)


def _format_row(row: TableRow, has_scf: bool) -> list[Any]:
    mark = "†" if row.steps_from_initial is not None and not row.initial_is_control else ""
    volumes = (row.initial_volume, row.predicted_volume, row.relaxed_volume)
    displacements = (row.initial_displacement, row.predicted_displacement)
    cells: list[Any] = [
        console.plain(row.id),
        console.color_word(row.verdict),
        " → ".join(f"{console.format_number(volume, 2):>5}" for volume in volumes),
        " → ".join(console.format_number(displacement, 3) for displacement in displacements),
        _format_steps(row.steps_from_predicted, row.steps_from_initial) + mark,
    ]
    if has_scf:
        cells.append(_format_steps(row.scf_from_predicted, row.scf_from_initial))
    state = console.color_word(row.state)
    return [*cells, state.append(f" ({row.note})", style="dim") if row.note else state]


def _format_steps(predicted: int | None, initial: int | None) -> str:
    return f"{console.format_number(predicted, 0)} | {console.format_number(initial, 0):>3}"


def _remove_empty_folders(root: Path) -> None:
    """Remove the folders of jobs that left no files."""
    for folder in root.glob("job_*"):
        with suppress(OSError):
            folder.rmdir()


@dataclass
class _ScreenWatcher:
    """Turns the ends of jobs into progress: chunks that are predicted, then relaxations."""

    progress: Progress
    store: JobStore
    n_chunks: int
    summary: ScreenDoc | None = None
    _task: TaskID = field(init=False)

    def __post_init__(self) -> None:
        self._task = self.progress.add_task("predicting", total=self.n_chunks, note="")

    def note(self, report: JobReport) -> None:
        """Count one job."""
        if report.name == PREDICT_JOB:
            self.progress.update(self._task, advance=1)
        elif report.name == PLAN_JOB and report.error is None:
            screen = self._read(report)
            planned = sum(outcome.state is None for row in screen.candidates for outcome in row.outcomes)
            self.progress.remove_task(self._task)
            self._task = self.progress.add_task(f"relaxing with {screen.engine}", total=planned, note="")
        elif report.name == OUTCOME_JOB:
            kind = report.metadata.get("start_kind", "")
            self.progress.update(self._task, advance=1, note=f"{report.metadata.get('candidate', '')} ({kind})")
        elif report.name == SUMMARY_JOB and report.error is None:
            self.summary = self._read(report)

    def _read(self, report: JobReport) -> ScreenDoc:
        return ScreenDoc.model_validate(self.store.get_output(report.uuid, load=True))
