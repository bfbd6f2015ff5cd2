"""Functional of a GPAW run by name, and conditions that no name covers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from e3relax_flows.core.functionals import spell_functional


def name_gpaw_functional(settings: Mapping[str, Any], default: str | None = None) -> str | None:
    """Functional of GPAW's keyword arguments, with +U where `setups` sets it."""
    xc = settings.get("xc", default)
    name = (xc.get("name") or xc.get("type")) if isinstance(xc, Mapping) else xc
    if not name:
        return None
    setups = settings.get("setups")
    words = setups.values() if isinstance(setups, Mapping) else [setups]
    has_u = any(isinstance(word, str) and ":" in word for word in words)  # such as ":d,4.0"
    return spell_functional(f"{name}+U" if has_u else str(name))


def list_gpaw_conditions(settings: Mapping[str, Any]) -> list[str]:
    """Why the minimum is not that of the functional alone; empty as a rule."""
    found = []
    if charge := settings.get("charge"):
        found.append(f"a charge of {charge:+g}")
    if settings.get("external") is not None:
        found.append("an external field")
    for name in ("occupations", "poissonsolver"):
        content = settings.get(name)
        for key in ("fixmagmom", "dipolelayer"):
            if isinstance(content, Mapping) and content.get(key):
                found.append(f"{name} with {key} = {content[key]}")
    if settings.get("hund"):
        found.append("hund = True: moments of free atoms")
    if settings.get("experimental"):
        found.append(f"experimental = {settings['experimental']}: moments of any direction, or spin-orbit coupling")
    return found
