"""Find structures in JSON records: the name of their field, and their missing values."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from pymatgen.core import Lattice, Structure

from e3relax_flows.core.errors import StructureError

# words of names that people give structures; a name of other words is an id
NOUNS = {"structure", "crystal", "pymatgen", "pmg", "dict"}
INITIAL = {"initial", "init", "input", "unrelaxed", "start", "starting", "original", "raw", "before"}
FINAL = {"final", "relaxed", "output", "optimized", "optimised", "end", "after"}
CELL = ("a", "b", "c", "alpha", "beta", "gamma")


def find_structure(record: Mapping[str, Any]) -> tuple[str, Any] | None:
    """Name and dictionary of the structure of a record: `structure` before initial before other before final ones.

    Nested ones, such as the `structure` of its `output`, and those that are JSON texts are found, too.
    """
    found: list[tuple[int, str, Any]] = []
    for name, value in record.items():
        words = set(re.findall(r"[a-z]+|\d+", re.sub(r"([a-z])([A-Z])", r"\1_\2", str(name)).lower()))
        if not words or not words <= NOUNS | INITIAL | FINAL:
            continue
        rank = 0 if name == "structure" else 1 if words & INITIAL else 3 if words & FINAL else 2
        if isinstance(value, str) and value.lstrip().startswith("{"):
            value = _load(value)
        if isinstance(value, Mapping) and is_structure(value.get("structure")):
            name, value = f"{name}.structure", value["structure"]
        if is_structure(value):
            found.append((rank, str(name), value))
    return min(found, key=lambda item: item[0])[1:] if found else None


def find_nulls(record: Mapping[str, Any]) -> list[str]:
    """Fields for structures in a record that are empty."""
    known = NOUNS | INITIAL | FINAL
    return [name for name, value in record.items() if value is None and set(re.findall("[a-z]+", name.lower())) & known]


def is_structure(value: Any) -> bool:
    """Whether it looks like the dictionary of a pymatgen structure."""
    return isinstance(value, Mapping) and "lattice" in value and "sites" in value


def build_structure(content: Mapping[str, Any], name: str = "") -> Structure:
    """A structure from its dictionary; null means a missing value, which some fields allow.

    Parameters
    ----------
    content
        As `Structure.as_dict` gives it.
    name
        Where it was, for messages.

    Raises
    ------
    StructureError
        When a value that a structure needs is missing; the message names its path.
    """
    prefix = f"{name}." if name else ""
    lattice = _need(content, "lattice", prefix)
    given = {key: value for key, value in lattice.items() if value is not None}
    needed = ("matrix",) if "matrix" in given else CELL if set(given) & set(CELL) else ("matrix",)
    for key in (*needed, *(["pbc"] if "pbc" in given else [])):
        _check(given.get(key), f"{prefix}lattice.{key}")
    sites = []
    for number, site in enumerate(_need(content, "sites", prefix)):
        path = f"{prefix}sites[{number}]"
        _check(site, path)
        for key in ("species", "abc"):
            _check(site.get(key), f"{path}.{key}")
        for index, species in enumerate(site["species"]):
            for key in ("element", "occu"):
                _check(species.get(key), f"{path}.species[{index}].{key}")
        properties = site.get("properties")
        sites.append({**site, "properties": dict(properties) if properties else {}})
    plain = {key: value for key, value in content.items() if value is not None}
    structure: Structure = Structure.from_dict({**plain, "lattice": given, "sites": sites})
    return structure


def build_side(side: Mapping[str, Any], numbers: Any, name: str) -> Structure:
    """A structure of one side of a pair: its `lattice` and `frac`, and the atomic numbers of the pair.

    Raises
    ------
    StructureError
        When one of them, or a value in it, is missing.
    """
    _check(numbers, "numbers")
    for key in ("lattice", "frac"):
        _check(side.get(key), f"{name}.{key}")
    fractions = np.asarray(side["frac"], dtype=float)
    if fractions.shape != (len(numbers), 3):
        raise StructureError("unreadable", f"{fractions.shape} coordinates for {len(numbers)} atoms")
    return Structure(Lattice(side["lattice"]), numbers, fractions)


def _need(content: Mapping[str, Any], key: str, prefix: str) -> Any:
    value = content.get(key)
    if value is None:
        raise StructureError("unreadable", f"its '{prefix}{key}' is missing")
    return value


def _check(value: Any, path: str) -> None:
    """Refuse a null, also inside nested lists."""
    if value is None:
        raise StructureError("unreadable", f"its {path!r} is missing")
    if isinstance(value, list | tuple):
        for index, item in enumerate(value):
            _check(item, f"{path}[{index}]")


def _load(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None
