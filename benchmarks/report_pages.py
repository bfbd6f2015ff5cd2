"""Size of the page of a screen, the time to write it, and the time until a browser shows its candidates.

    python benchmarks/report_pages.py                 # 120, 1,000 and 5,000 candidates of 16 atoms
    python benchmarks/report_pages.py 5000 --atoms 40

Needs playwright and a chromium (its own, or on the path). Times of the browser are medians of three openings in fresh
contexts, by the clock of the page: until texts and candidates are painted, until the first figure is drawn; and from a
click until a candidate's three structures are drawn (WebGL in software).
"""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from report_screens import make_screen

from e3relax_flows.report.html import write_screen_page
from e3relax_flows.report.tables import build_table

OPENINGS = 3
ARGUMENTS = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]


def write(n_candidates: int, n_atoms: int, path: Path) -> float:
    """Write a page; seconds, without making the screen."""
    screen, documents = make_screen(n_candidates, n_atoms)
    start = time.perf_counter()
    table = build_table(screen, documents.predictions.values(), documents.outcomes.values())
    write_screen_page(path, screen, table, "", documents)
    return time.perf_counter() - start


TIMES = """() => [
    performance.getEntriesByName("listed")[0].startTime,
    performance.getEntriesByName("first-contentful-paint")[0].startTime,
    performance.getEntriesByName("first-figure")[0].startTime,
]"""


def open_once(browser: Any, path: Path) -> tuple[float, float, float]:
    """Seconds until texts and list are painted, until the first figure is drawn, and until a candidate is opened."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, offline=True)
    page = context.new_page()
    page.goto(path.as_uri())
    page.wait_for_selector("[data-figure] .main-svg", state="attached")
    page.wait_for_function("performance.getEntriesByName('first-figure').length")
    listed, painted, drawn = (value / 1000 for value in page.evaluate(TIMES))
    start = time.perf_counter()
    page.click("#candidate-table tbody a >> nth=0")
    page.wait_for_selector("dialog[data-ready]")
    opened = time.perf_counter() - start
    context.close()
    return max(listed, painted), drawn, opened


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("candidates", nargs="*", type=int, default=[120, 1000, 5000])
    parser.add_argument("--atoms", type=int, default=16, help="on average")
    arguments = parser.parse_args()
    from playwright.sync_api import sync_playwright

    installed = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    print("| candidates | MB | written, s | candidates shown, s | first figure, s | candidate in 3D, s |")
    print("| --- | --- | --- | --- | --- | --- |")
    with TemporaryDirectory() as folder, sync_playwright() as driver:
        own = driver.chromium.executable_path
        browser = driver.chromium.launch(executable_path=own if Path(own).exists() else installed, args=ARGUMENTS)
        for n_candidates in arguments.candidates:
            path = Path(folder) / f"{n_candidates}.html"
            written = write(n_candidates, arguments.atoms, path)
            times = [
                median(column) for column in zip(*(open_once(browser, path) for _ in range(OPENINGS)), strict=True)
            ]
            cells = [f"{n_candidates:,}", f"{path.stat().st_size / 1e6:.1f}", *(f"{t:.2f}" for t in (written, *times))]
            print(f"| {' | '.join(cells)} |", flush=True)
        browser.close()


if __name__ == "__main__":
    main()
