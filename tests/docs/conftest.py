"""What makes reference pages of the code, and the commands that it knows."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import Any

import pytest
from pages import DOCS

from e3relax_flows.engines.registry import list_engines, unregister_engine


@pytest.fixture(autouse=True)
def _forget_engines() -> Iterator[None]:
    """Engines that a page registers are gone after its test."""
    known = {engine.name for engine in list_engines()}
    yield
    for name in {engine.name for engine in list_engines()} - known:
        unregister_engine(name)


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
