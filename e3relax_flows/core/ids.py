"""Content hashes: the same content has the same id on every machine."""

from __future__ import annotations

import hashlib
import json
import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pymatgen.core import Structure

ID_LENGTH = 16
LENGTH_DIGITS = 5
FRACTION_DIGITS = 6


def hash_content(content: Any) -> str:
    """First 16 hex digits of the sha256 of `content` written as canonical JSON."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:ID_LENGTH]


def identify_structure(structure: Structure) -> str:
    """Id of a structure as it is written: lattice (1e-5 Å), sites in order, charge and site properties.

    Two descriptions of the same crystal (another origin, another cell) have different ids: a prediction
    belongs to one list of sites. Equivalent crystals are found with pymatgen's StructureMatcher instead.
    """
    fractions = [[round(float(x) % 1.0, FRACTION_DIGITS) % 1.0 for x in site.frac_coords] for site in structure]
    return hash_content(
        {
            "lattice": [[round(float(x), LENGTH_DIGITS) + 0.0 for x in row] for row in structure.lattice.matrix],
            "species": [site.species_string for site in structure],
            "fractions": fractions,
            "charge": structure.charge or 0,
            "properties": {key: _plain(values) for key, values in sorted(structure.site_properties.items())},
        }
    )


def draw_uniform(seed: int, key: str) -> float:
    """A number in [0, 1) that depends on nothing but `seed` and `key`."""
    digest = hashlib.sha256(f"{seed}:{key}".encode()).digest()
    return math.ldexp(int.from_bytes(digest[:8], "big"), -64)


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, FRACTION_DIGITS)
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
