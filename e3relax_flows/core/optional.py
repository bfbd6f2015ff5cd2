"""Optional dependencies, imported where they are used."""

from __future__ import annotations

import importlib
from types import ModuleType

from e3relax_flows.core.errors import MissingDependencyError


def require(module: str, extra: str, purpose: str) -> ModuleType:
    """Import `module`; the error names the extra of e3relax-flows that installs it.

    Raises
    ------
    MissingDependencyError
        When the module is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"{purpose} needs {error.name!r}, which is not installed; "
            f"install it with: pip install 'e3relax-flows[{extra}]'"
        ) from error
