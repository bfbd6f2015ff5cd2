"""Pages outside of docs/tutorials run: their Python and commands in order, page by page."""

from __future__ import annotations

import re
from typing import Any

import pytest
from page_runs import run_page
from pages import DOCS, list_pages, read_blocks

PAGES = [page for page in list_pages() if read_blocks(page) and page.parent.name != "tutorials"]


def check_screen(names: dict[str, Any]) -> None:
    """Look at what the page `howto/python.md` has computed, and whether the page of the demo shows the same."""
    prediction, screen = names["prediction"], names["screen"]
    assert prediction.verdict in ("accept", "refuse")
    assert 0.8 < prediction.volume_ratio < 1.4  # CaO in the cell of CdO: 1.08 by measured lattice constants
    assert [row["state"] for row in screen["candidates"]] == ["successful", "successful"]
    demo = (DOCS / "tutorials" / "demo.md").read_text(encoding="utf-8")
    for row in screen["candidates"]:
        steps = {outcome["start_kind"]: outcome["n_ionic_steps"] for outcome in row["outcomes"]}
        assert all(1 <= count < 100 for count in steps.values())
        shown = re.search(rf"^  {row['id']} .* (\d+) \| +(\d+) ", demo, re.MULTILINE)
        assert shown is not None, row["id"]
        assert (int(shown[1]), int(shown[2])) == (steps["predicted"], steps["control"])
    assert sorted(set(names["outcomes"]["id"])) == sorted(row["id"] for row in screen["candidates"])


@pytest.mark.usefixtures("settings")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(DOCS).as_posix())
def test_blocks_of_a_page_run_in_order(page, commands, monkeypatch, capsys):
    names = run_page(page, commands, monkeypatch, capsys).names
    if page.name == "python.md":
        check_screen(names)
