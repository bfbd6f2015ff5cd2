"""What makes reference pages of the code, and the commands that it knows."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
from pages import DOCS

from e3relax_flows.engines import registry


@pytest.fixture(autouse=True)
def _forget_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Engines that a page registers are gone after its test."""
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))


@pytest.fixture(scope="session")
def hooks() -> Any:
    """The module that makes reference pages of the code."""
    spec = importlib.util.spec_from_file_location("docs_hooks", DOCS / "hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def commands(hooks: Any) -> dict[tuple[str, ...], Any]:
    return dict(hooks.iterate_commands())
