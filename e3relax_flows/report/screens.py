"""The report of a finished screen: its table, sums and page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from e3relax_flows.ledger.savings import summarize_savings
from e3relax_flows.ledger.workspace import Workspace
from e3relax_flows.report.collecting import collect_screen
from e3relax_flows.report.html import write_screen_page
from e3relax_flows.report.tables import ScreenTable, build_table, describe_arms, describe_savings
from e3relax_flows.schemas.screens import ScreenDoc

PAGE_FILE, DOCUMENT_FILE = "report.html", "screen.json"


@dataclass(frozen=True)
class ScreenReport:
    """A finished screen with its table, savings and page.

    Examples
    --------
    What `run_screen` gives: the screen, its table, sentences on savings, and the HTML page.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from pymatgen.core import Lattice, Structure
    >>> from e3relax_flows import PrerelaxMaker, ScreenMaker, isolate_stores, run_screen
    >>> from e3relax_flows.testing import EmtEngine
    >>> copper = Structure(Lattice.rhombohedral(2.7, 60), ["Cu"], [[0, 0, 0]])
    >>> maker = ScreenMaker(prerelax=PrerelaxMaker(device="cpu"), engine=EmtEngine(), control=0)
    >>> settings = isolate_stores(Path(tempfile.mkdtemp()))
    >>> report = run_screen(maker, [copper], ["copper"], settings, Path("runs/copper"))
    >>> report.table.engine_label, report.page.name, report.savings[:10]
    ('EMT: a potential, not DFT', 'report.html', 'No control')
    """

    screen: ScreenDoc
    table: ScreenTable
    savings: str
    page: Path
    arms: tuple[str, ...] = ()


def report_screen(screen: ScreenDoc, workspace: Workspace, out: Path) -> ScreenReport:
    """Join a screen with its documents, and write its page and document into `out`."""
    documents = collect_screen(screen, workspace)
    table = build_table(screen, documents.predictions.values(), documents.outcomes.values())
    summary = summarize_savings(documents.outcomes.values())
    savings = describe_savings(summary)
    page = write_screen_page(out / PAGE_FILE, screen, table, savings, documents)
    (out / DOCUMENT_FILE).write_text(screen.model_dump_json(indent=1), encoding="utf-8")
    return ScreenReport(screen, table, savings, page, tuple(describe_arms(summary)))
