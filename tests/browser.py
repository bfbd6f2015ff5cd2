"""A real browser for the pages: playwright's own chromium, or one that is installed; tests skip where there is none."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

INSTALL = "apt-get install chromium, or: python -m playwright install --with-deps chromium"
# WebGL in software; root has no sandbox
ARGUMENTS = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]


@dataclass
class Opened:
    """A page in the browser, and what it said and asked for."""

    page: Any
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    alerts: list[str] = field(default_factory=list)

    def check(self) -> None:
        """Nothing went wrong, nothing was fetched, no text became a script."""
        assert self.errors == []
        assert self.alerts == []
        assert [url for url in self.requests if url.split(":")[0] not in ("file", "data", "blob")] == []


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    installed = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with playwright.sync_playwright() as driver:
        own = driver.chromium.executable_path
        if not Path(own).exists() and installed is None:
            pytest.skip(f"no browser: {INSTALL}")
        opened = driver.chromium.launch(executable_path=own if Path(own).exists() else installed, args=ARGUMENTS)
        yield opened
        opened.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[..., Opened]]:
    """Open a file in the browser: its path, what follows # in the address, and the width, the colours of the system."""
    contexts = []

    def open_file(path: Path, fragment: str = "", width: int = 1280, scheme: str = "light") -> Opened:
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True)
        contexts.append(context)
        opened = Opened(context.new_page())
        opened.page.set_default_timeout(30_000)
        opened.page.on("console", lambda message: message.type == "error" and opened.errors.append(message.text))
        opened.page.on("pageerror", lambda error: opened.errors.append(str(error)))
        opened.page.on("request", lambda request: opened.requests.append(request.url))
        opened.page.on("dialog", lambda dialog: (opened.alerts.append(dialog.message), dialog.dismiss()))
        opened.page.goto(path.as_uri() + fragment)
        return opened

    yield open_file
    for context in contexts:
        context.close()
