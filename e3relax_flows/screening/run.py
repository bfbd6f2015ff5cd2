"""Run a screen in this process, show its progress, and report it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pymatgen.core import Structure
from rich.progress import Progress, TaskID

from e3relax_flows.candidates.reading import ReadItem
from e3relax_flows.core.settings import E3RelaxSettings
from e3relax_flows.ledger.store import open_outcome_store, open_prediction_store
from e3relax_flows.ledger.workspace import Workspace, open_workspace
from e3relax_flows.places.local import JobReport
from e3relax_flows.prerelax.predict import PREDICT_JOB
from e3relax_flows.prerelax.record import OUTCOME_JOB
from e3relax_flows.prerelax.relax import CLAIM_JOB
from e3relax_flows.report import console
from e3relax_flows.report.screens import ScreenReport, report_screen
from e3relax_flows.schemas.screens import CandidateState, ScreenConfig, ScreenDoc, ScreenLimits
from e3relax_flows.screening.control import resume_screen
from e3relax_flows.screening.local import run_screen_here
from e3relax_flows.screening.maker import ScreenMaker
from e3relax_flows.screening.register import register_screen
from e3relax_flows.screening.store import ScreenStores, find_rows, find_screen, load_screen, open_screen_stores

JOBS_DIR = "jobs"
MAX_ERRORS = 5


def run_screen(
    maker: ScreenMaker, structures: Sequence[Structure], ids: Sequence[str], settings: E3RelaxSettings, out: Path
) -> ScreenReport:
    """Run the screen of some structures; see `run_candidates`.

    Examples
    --------
    Two metals in cells that are too large, relaxed from prediction and initial structure:

    >>> import tempfile
    >>> from pathlib import Path
    >>> from pymatgen.core import Lattice, Structure
    >>> from e3relax_flows import PrerelaxMaker, ScreenMaker, isolate_stores, run_screen
    >>> from e3relax_flows.testing import EmtEngine
    >>> metals = [
    ...     Structure.from_spacegroup("Fm-3m", Lattice.cubic(a), [metal], [[0, 0, 0]]).get_primitive_structure()
    ...     for metal, a in (("Cu", 3.8), ("Ag", 4.3))
    ... ]
    >>> maker = ScreenMaker(prerelax=PrerelaxMaker(device="cpu"), engine=EmtEngine(), control=1.0)
    >>> settings = isolate_stores(Path(tempfile.mkdtemp()))
    >>> report = run_screen(maker, metals, ["copper", "silver"], settings, Path("runs/metals"))
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

    Results of an earlier run of the same screen are not computed again.

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
    ConfigError, ModelError
        When no structure could be read, or the model is unknown.

    Examples
    --------
    Two candidates, of which one cannot be read:

    >>> import tempfile
    >>> from pathlib import Path
    >>> from pymatgen.core import Lattice, Structure
    >>> from e3relax_flows import PrerelaxMaker, ReadItem, ScreenMaker, isolate_stores, run_candidates
    >>> from e3relax_flows.testing import EmtEngine
    >>> copper = ReadItem("copper", Structure(Lattice.rhombohedral(2.7, 60), ["Cu"], [[0, 0, 0]]), None)
    >>> maker = ScreenMaker(prerelax=PrerelaxMaker(device="cpu"), engine=EmtEngine(), control=0)
    >>> items = [copper, ReadItem("gold", None, "no such file")]
    >>> settings = isolate_stores(Path(tempfile.mkdtemp()))
    >>> report = run_candidates(maker, items, settings, Path("runs/metals"))
    >>> [(row.id, str(row.state)) for row in report.screen.candidates]
    [('copper', 'successful'), ('gold', 'error')]
    """
    with open_workspace(settings) as workspace:
        for opener in (open_prediction_store, open_outcome_store):
            workspace.get(opener)  # an unavailable store gives one message now, not one of every job
        out.mkdir(parents=True, exist_ok=True)  # a screen is not registered if its page could not be written
        stores, limits = workspace.get(open_screen_stores), config.limits if config else None
        with console.hide_warnings():
            candidates, ranking = console.show_notes(items), config.ranking if config else None
            screen, is_new = register_screen(stores, maker, candidates, workspace, ranking, limits=limits)
        screen_id = str(screen.screen_id)
        if not is_new:
            message = f"screen {screen_id} was registered before: its results are not computed again"
            console.err.print(message, highlight=False)
            prepare_again(screen_id, workspace, limits, maker.retry_failed)
        return finish_here(screen_id, workspace, out)


def prepare_again(
    screen_id: str,
    workspace: Workspace,
    limits: ScreenLimits | None,
    retry_failed: bool,
    error: str | None = None,
) -> None:
    """Requeue unfinished candidates of an earlier run, if there was one."""
    for line in resume_screen(screen_id, workspace, limits, retry_failed, error).lines:
        console.err.print(line, highlight=False, markup=False)


def finish_here(screen_id: str, workspace: Workspace, out: Path) -> ScreenReport:
    """Run the remaining candidates of a screen in this process, and report it."""
    failures: list[JobReport] = []
    stores = workspace.get(open_screen_stores)
    with console.make_progress() as progress, console.hide_warnings():
        watcher = _ScreenWatcher(progress, screen_id, stores, failures)
        try:
            run_screen_here(screen_id, workspace, out / JOBS_DIR, watcher.note)
        except KeyboardInterrupt:
            progress.stop()
            console.print_error(f"interrupted; `e3relax screen resume {screen_id} --out {out}` continues it")
            raise
    _remove_empty_folders(out / JOBS_DIR)
    _print_failures(failures)
    return report_screen(load_screen(stores, screen_id), workspace, out)


def _print_failures(failures: Sequence[JobReport]) -> None:
    """Print our own failed jobs, and each error of the engine's jobs once, since the table lists those."""
    for failure in failures:
        if failure.name.startswith("e3r "):
            console.print_error(f"{failure.name}: {failure.error}")
    counts = Counter((failure.name, failure.error) for failure in failures if not failure.name.startswith("e3r "))
    for (name, error), count in counts.most_common(MAX_ERRORS):
        console.print_error(f"{name}: {error}{f' ({count} jobs)' if count > 1 else ''}")


def has_errors(screen: ScreenDoc) -> bool:
    """Whether a candidate has no prediction or a failed relaxation.

    Examples
    --------
    >>> from e3relax_flows import CandidateRow, ScreenDoc, has_errors
    >>> rows = [CandidateRow(id="NaBr", state="successful"), CandidateRow(id="KBr", state="failed", message="killed")]
    >>> settings = {"engine_id": "an id", "model": "default", "on_refuse": "initial", "paired_controls": True}
    >>> has_errors(ScreenDoc(name="salts", engine="vasp-mp24", seed=0, control=0.1, candidates=rows, **settings))
    True
    """
    return any(row.state in (CandidateState.ERROR, CandidateState.FAILED) for row in screen.candidates)


def _remove_empty_folders(root: Path) -> None:
    """Remove the folders of jobs that left no files."""
    for folder in root.glob("job_*"):
        with suppress(OSError):
            folder.rmdir()


@dataclass
class _ScreenWatcher:
    """Turns the ends of jobs into progress: chunks that are predicted, then relaxations."""

    progress: Progress
    screen_id: str
    stores: ScreenStores
    failures: list[JobReport]
    _task: TaskID | None = None

    def __post_init__(self) -> None:
        waiting = {row.chunk for row in find_rows(self.stores, self.screen_id, [CandidateState.WAITING])}
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
        engine = find_screen(self.stores, self.screen_id).engine
        rows = find_rows(self.stores, self.screen_id, [CandidateState.PLANNED, CandidateState.SUBMITTED])
        planned = sum(outcome.state is None for row in rows for outcome in row.outcomes)
        self._task = self.progress.add_task(f"relaxing with {engine}", total=planned, note="")
        self._is_relaxing = True
