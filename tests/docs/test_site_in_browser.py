"""The built documentation in a browser, from disk and without a network: no page logs an error, search finds pages."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pages import ROOT

SOURCES = ("docs", "e3relax_flows", "configs", "workflows", "benchmarks")


def is_source(path: Path) -> bool:
    return "__pycache__" not in path.parts and not path.name.startswith(".")


@pytest.fixture(scope="module")
def site(browser, tmp_path_factory) -> Path:  # noqa: ARG001
    """The folder with the built pages: that of `make docs` where it is newer than what it is built of."""
    made = ROOT / "site" / "index.html"
    sources = [ROOT / "mkdocs.yml", *(path for name in SOURCES for path in (ROOT / name).rglob("*") if path.is_file())]
    if made.exists() and made.stat().st_mtime > max(path.stat().st_mtime for path in sources if is_source(path)):
        return made.parent
    folder = tmp_path_factory.mktemp("docs") / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    built = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


def test_no_page_logs_an_error_and_every_picture_is_shown(open_page, site):
    # servers answer with 404.html, whose addresses begin at the root of the server
    pages = [path for path in sorted(site.rglob("*.html")) if path.name != "404.html"]
    assert len(pages) > 30
    opened = open_page(pages[0])
    for path in pages:
        opened.page.goto(path.as_uri())
        broken = opened.page.evaluate(
            "Promise.all([...document.images].filter(image => image.checkVisibility()).map(image => "
            "image.decode().then(() => null, () => image.src))).then(images => images.filter(Boolean))"
        )
        assert broken == [], path
    opened.check()


@pytest.mark.parametrize("page", ["index.html", "reference/cli.html"])
@pytest.mark.parametrize(
    ("words", "found"),
    [("bootstrap", "explanation/gate.html"), ("recover", "faults.html"), ("zzyzx", None)],
)
def test_search_finds_pages_from_disk(open_page, site, page, words, found):
    opened = open_page(site / page)
    opened.page.click(".md-search__input")
    opened.page.keyboard.type(words)
    opened.page.wait_for_function("/document/.test(document.querySelector('.md-search-result__meta').textContent)")
    links = opened.page.locator(".md-search-result__link").evaluate_all("nodes => nodes.map(node => node.pathname)")
    if found is None:
        assert links == []
    else:
        assert (site / found).as_uri().removeprefix("file://") in links
        opened.page.locator(f".md-search-result__link[href*='{found}']").first.click()
        opened.page.wait_for_url(f"**/{found}*")
        assert words in opened.page.inner_text("article").lower()
    opened.check()


def test_a_page_that_logs_an_error_is_noticed(open_page, site, tmp_path):
    page = tmp_path / "page.html"
    page.write_text((site / "index.html").read_text(encoding="utf-8"), encoding="utf-8")  # its scripts lie elsewhere
    with pytest.raises(AssertionError):
        open_page(page).check()
