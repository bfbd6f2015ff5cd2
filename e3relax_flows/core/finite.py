"""Finite numbers: keep NaN and infinities out of stores, references and exports."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pymatgen.core import Structure


def is_finite_number(value: Any) -> bool:
    """Whether a value is a finite number; booleans and text are not numbers."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def is_finite_structure(structure: Structure) -> bool:
    """Whether lattice and coordinates are finite."""
    return bool(np.isfinite(structure.lattice.matrix).all() and np.isfinite(structure.frac_coords).all())


def find_not_finite(content: Any) -> str | None:
    """Dotted path of the first NaN or infinity in a plain document, with its value; None where all are finite."""
    if isinstance(content, float) and not math.isfinite(content):
        return f"= {content}"
    items = content.items() if isinstance(content, Mapping) else enumerate(content) if isinstance(content, list) else ()
    for key, value in items:
        if (below := find_not_finite(value)) is not None:
            return f"{key} {below}" if below.startswith("=") else f"{key}.{below}"
    return None


def replace_infinite(value: Any) -> Any:
    """Plain content with None in place of numbers that are not finite."""
    if isinstance(value, dict):
        return {key: replace_infinite(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [replace_infinite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
