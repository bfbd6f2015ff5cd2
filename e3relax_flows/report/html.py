"""HTML pages of screens, models and campaigns: each one file that opens from disk."""

from __future__ import annotations

from pathlib import Path

from e3relax_flows.report.pages import render_page, write_page
from e3relax_flows.report.screenpage import ScreenDocuments, build_screen_page
from e3relax_flows.report.tables import ScreenTable
from e3relax_flows.schemas.screens import ScreenDoc


def render_screen_page(
    screen: ScreenDoc, table: ScreenTable, savings: str, documents: ScreenDocuments | None = None
) -> str:
    """The page of a screen as text; parameters are those of `build_screen_page`."""
    return render_page(build_screen_page(screen, table, savings, documents or ScreenDocuments()))


def write_screen_page(
    path: Path, screen: ScreenDoc, table: ScreenTable, savings: str, documents: ScreenDocuments | None = None
) -> Path:
    """Write the page of a screen to `path`, making its folder; gives the absolute path.

    Without `documents` it has neither figures of errors nor structures, only what the screen itself says.
    """
    return write_page(path, render_screen_page(screen, table, savings, documents))
