"""Decode makers from stored documents: a document may name classes of values, never code to run."""

from __future__ import annotations

import importlib
import inspect
from enum import Enum
from typing import Any, TypeVar

from monty.json import MontyDecoder, MSONable
from pydantic import BaseModel

from e3relax_flows.core.errors import ConfigError

Made = TypeVar("Made")
VALUES = (MSONable, BaseModel, Enum)
PLAIN_MODULES = frozenset({"datetime", "uuid", "numpy", "pathlib"})  # monty itself decodes their values


def decode_as(document: dict[str, Any], kind: type[Made], what: str) -> Made:
    """The object whose serialised form is `document`; everything is checked before anything is built.

    Parameters
    ----------
    document
        As monty writes it, with @module and @class.
    kind
        What it must be.
    what
        What it is, for messages.

    Raises
    ------
    ConfigError
        When it is something else, names a function, or names a class that is missing or not a value: MSONable (as
        all makers are), pydantic model or enumeration.
    """
    found = _find_class(document, what)
    if found is None or not issubclass(found, kind):
        name = f"{document.get('@module')}.{document.get('@class')}"
        raise ConfigError(f"{what} is of {name}, which is not a {kind.__name__}; another program wrote it")
    _check(document, what)
    return MontyDecoder().process_decoded(document)


def _check(content: Any, what: str) -> None:
    """Raise when something in a document is more than a value."""
    if isinstance(content, dict):
        if "@callable" in content:
            name = f"{content.get('@module')}.{content['@callable']}"
            raise ConfigError(f"{what} names the function {name}; a document may hold values only, and nothing was run")
        found = _find_class(content, what)
        for key, value in content.items():
            if not _is_own_function(value, found, key):
                _check(value, what)
    elif isinstance(content, list | tuple):
        for value in content:
            _check(value, what)


def _is_own_function(value: Any, kind: type | None, field: str) -> bool:
    """Whether a function is the one that a class has in this field already, as ABINIT's input sets have theirs."""
    if not isinstance(value, dict) or "@callable" not in value or kind is None:
        return False
    usual = getattr(kind, field, None)
    return (
        inspect.isfunction(usual)
        and (usual.__module__, usual.__qualname__) == (value.get("@module"), value["@callable"])
        and not value.get("@bound")
    )


def _find_class(content: dict[str, Any], what: str) -> type | None:
    """The class that a dictionary names, if it names one that is not monty's own."""
    module, name = content.get("@module"), content.get("@class")
    if not isinstance(module, str) or not isinstance(name, str) or module in PLAIN_MODULES:
        return None
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{what} needs {module}.{name}, which cannot be imported ({error}); install it") from error
    if not (isinstance(found, type) and issubclass(found, VALUES)):
        raise ConfigError(f"{what} names {module}.{name}, which is not a value; nothing was built from it")
    return found
