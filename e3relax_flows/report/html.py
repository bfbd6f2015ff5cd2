"""HTML pages of screens, models and campaigns: each one file that opens from disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from e3relax_flows.report.campaign_page import build_campaign_page
from e3relax_flows.report.model_page import ModelDocuments, build_model_page
from e3relax_flows.report.pages import render_page, write_page
from e3relax_flows.report.screen_page import ScreenDocuments, build_screen_page
from e3relax_flows.report.tables import ScreenTable
from e3relax_flows.schemas.campaigns import CampaignDoc, GenerationDoc
from e3relax_flows.schemas.models import GateDoc
from e3relax_flows.schemas.screens import ScreenDoc


def render_screen_page(
    screen: ScreenDoc, table: ScreenTable, savings: str, documents: ScreenDocuments | None = None
) -> str:
    """The page of a screen as text; parameters are those of `build_screen_page`."""
    return render_page(build_screen_page(screen, table, savings, documents or ScreenDocuments()))


def write_screen_page(
    path: Path, screen: ScreenDoc, table: ScreenTable, savings: str, documents: ScreenDocuments | None = None
) -> Path:
    """Write the page of a screen to `path`, making its folder; return the absolute path.

    Without `documents` it has neither figures of errors nor structures, only the rows of the screen.
    """
    return write_page(path, render_screen_page(screen, table, savings, documents))


def render_model_page(documents: ModelDocuments) -> str:
    """The page of a model as text."""
    return render_page(build_model_page(documents))


def render_campaign_page(
    campaign: CampaignDoc, generations: Sequence[GenerationDoc], gates: Mapping[str, GateDoc]
) -> str:
    """The page of a campaign as text; parameters are those of `build_campaign_page`."""
    return render_page(build_campaign_page(campaign, generations, gates))
