"""Pages of docs/tutorials run: their Python and commands in order, page by page."""

from __future__ import annotations

import pytest
from page_runs import run_page
from pages import DOCS, list_pages, read_blocks

PAGES = [page for page in list_pages() if read_blocks(page) and page.parent.name == "tutorials"]


@pytest.mark.usefixtures("settings")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(DOCS).as_posix())
def test_blocks_of_a_page_run_in_order(page, commands, monkeypatch, capsys):
    run_page(page, commands, monkeypatch, capsys)
