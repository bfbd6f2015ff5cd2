"""Pages of docs/tutorials run: their Python and commands in order, page by page."""

from __future__ import annotations

import pytest
from page_runs import run_page
from pages import DOCS, list_pages, read_blocks

PAGES = [page for page in list_pages() if read_blocks(page) and page.parent.name == "tutorials"]


@pytest.mark.usefixtures("settings")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(DOCS).as_posix())
def test_blocks_of_a_page_run_in_order(page, commands, monkeypatch, capsys):
    wanted = sum(
        len(block.list_commands()) if block.language == "sh" else 1
        for block in read_blocks(page)
        if block.why_not is None and (block.language == "sh" or (block.language == "python" and block.file is None))
    )
    assert run_page(page, commands, monkeypatch, capsys).n_run == wanted


@pytest.mark.usefixtures("settings")
@pytest.mark.parametrize(
    "text",
    [
        "```python\nprint(2 + 2)\n```\n\n```text\n5\n```\n",
        "```python\nassert 2 + 2 == 5\n```\n",
        "```sh\ne3relax predict no-such-file.cif\n```\n",
        "```sh\ne3relax no-such-command\n```\n",
    ],
)
def test_a_page_that_is_wrong_fails(text, commands, monkeypatch, capsys, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises(AssertionError):
        run_page(page, commands, monkeypatch, capsys)
