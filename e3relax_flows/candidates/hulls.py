"""Convex hulls over given entries: read them, and compute the distance of an energy from the hull of its elements."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from pathlib import Path
from typing import Any

from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram
from pymatgen.core import Composition, Element
from pymatgen.entries.computed_entries import ComputedEntry, ComputedStructureEntry

from e3relax_flows.core.errors import ConfigError
from e3relax_flows.core.finite import is_finite_number
from e3relax_flows.core.text_files import open_text

ENTRY_CLASSES: dict[str, type[ComputedEntry]] = {
    "ComputedEntry": ComputedEntry,
    "ComputedStructureEntry": ComputedStructureEntry,
}
TRUSTED_PACKAGES = ("pymatgen", "emmet")  # packages whose classes a file of entries may name
CACHED_DIAGRAMS = 256
ADVICE = "write a JSON list of pymatgen's ComputedEntry or ComputedStructureEntry dictionaries, or one per line"


@dataclass(frozen=True)
class HullPosition:
    """Distance of an energy from the hull; None with the reason in `message` if there is no hull."""

    energy_above_hull: float | None  # eV per atom; negative: below all known entries
    decomposition: str = ""  # such as "0.50 Na + 0.50 Cl", in fractions of atoms
    message: str | None = None


class HullSet:
    """Entries of many elements, and their hulls, each built when it is first used.

    Only composition, energy and name of the entries are kept.

    Parameters
    ----------
    entries
        On one scale of energies.

    Raises
    ------
    ConfigError
        When an entry has an energy or an amount that is not a finite number: it would change hulls without an error.
    """

    def __init__(self, entries: Iterable[ComputedEntry | PDEntry]) -> None:
        self._by_system: dict[frozenset[str], list[PDEntry]] = defaultdict(list)
        for entry in entries:
            check_entry(entry, f"entry {getattr(entry, 'entry_id', None) or entry.name}")
            composition = entry.composition.element_composition
            light = PDEntry(composition, entry.energy, name=composition.reduced_formula)
            self._by_system[_list_elements(composition)].append(light)
        self._find = lru_cache(CACHED_DIAGRAMS)(self._build)

    def __len__(self) -> int:
        return sum(map(len, self._by_system.values()))

    def extend(self, entries: Iterable[ComputedEntry | PDEntry]) -> HullSet:
        """These and more entries."""
        return HullSet([*(entry for group in self._by_system.values() for entry in group), *entries])

    def locate(self, composition: Composition, energy: float) -> HullPosition:
        """Position of `energy` (eV, of `composition` as written) relative to the hull of its elements."""
        if not math.isfinite(energy):
            return HullPosition(None, message=f"its energy is {energy} eV")
        elements = _list_elements(composition)
        lacking = sorted(name for name in elements if frozenset([name]) not in self._by_system)
        if lacking:
            return HullPosition(None, message=f"no entry of the element {', '.join(lacking)}, so there is no hull")
        diagram = self._find(elements)
        per_atom = energy / composition.num_atoms
        parts = diagram.get_decomposition(composition.element_composition)
        words = sorted((phase.composition.reduced_formula, amount) for phase, amount in parts.items())
        return HullPosition(
            energy_above_hull=float(per_atom - diagram.get_hull_energy_per_atom(composition.element_composition)),
            decomposition=" + ".join(f"{amount:.2f} {name}" for name, amount in words),
        )

    def _build(self, elements: frozenset[str]) -> PhaseDiagram:
        systems = (frozenset(part) for n in range(1, len(elements) + 1) for part in combinations(sorted(elements), n))
        entries = [entry for system in systems for entry in self._by_system.get(system, ())]
        return PhaseDiagram(entries, elements=[Element(name) for name in sorted(elements)])


def read_entries(path: Path) -> list[ComputedEntry]:
    """Entries of a JSON list or of JSON lines, also .gz.

    Raises
    ------
    ConfigError
        When the file cannot be read, or names classes of other packages.
    """
    try:
        with open_text(path) as stream:
            is_lines = ".jsonl" in path.suffixes
            content = [json.loads(line) for line in stream if line.strip()] if is_lines else json.load(stream)
    except (OSError, ValueError, EOFError) as error:
        raise ConfigError(f"{path}: {error}; {ADVICE}") from error
    if isinstance(content, dict):
        content = content.get("entries", [content])
    if not isinstance(content, list) or not content:
        raise ConfigError(f"{path} holds no entries; {ADVICE}")
    return [build_entry(raw, f"{path}, entry {number}") for number, raw in enumerate(content, start=1)]


def build_entry(raw: Any, where: str) -> ComputedEntry:
    """An entry from its dictionary; only classes of pymatgen and emmet are built.

    Raises
    ------
    ConfigError
        When it is not an entry, or its energy or an amount of an element is not a finite number.
    """
    if not isinstance(raw, Mapping) or not {"composition", "structure"} & raw.keys() or "energy" not in raw:
        raise ConfigError(f"{where}: it is not an entry; {ADVICE}")
    if foreign := sorted(set(_find_modules(raw))):
        raise ConfigError(f"{where}: it names {', '.join(foreign)}, which entries do not need; remove it")
    default: type[ComputedEntry] = ComputedStructureEntry if "structure" in raw else ComputedEntry
    kind = ENTRY_CLASSES.get(str(raw.get("@class")), default)
    for name in ("energy", "correction"):
        _check_number(raw.get(name, 0.0), f"{where}: its {name}")
    try:
        entry = kind.from_dict({"correction": 0.0, **raw})
        check_entry(entry, where)
    except ConfigError:
        raise
    except Exception as error:  # the boundary between entries: pymatgen raises various errors on bad input
        raise ConfigError(f"{where}: {type(error).__name__}: {error}; {ADVICE}") from error
    return entry


def check_entry(entry: ComputedEntry | PDEntry, where: str) -> None:
    """Refuse an entry whose energy, adjustments or composition are not finite numbers.

    Raises
    ------
    ConfigError
        With the position of the entry.
    """
    _check_number(entry.energy, f"{where}: its energy")
    amounts = list(entry.composition.values())
    for element, amount in entry.composition.items():
        _check_number(amount, f"{where}: the amount of {element}")
    if not amounts or min(amounts) < 0 or sum(amounts) <= 0:
        raise ConfigError(f"{where}: its composition {entry.composition.formula!r} has no atoms; {ADVICE}")


def _check_number(value: Any, what: str) -> None:
    if not is_finite_number(value):
        raise ConfigError(f"{what} is {value!r}, not a finite number; correct or remove the entry")


def _find_modules(content: Any) -> Iterable[str]:
    """Modules named in a document of monty that belong to other packages than entries need."""
    if isinstance(content, Mapping):
        module = content.get("@module")
        if module is not None and str(module).split(".")[0] not in TRUSTED_PACKAGES:
            yield str(module)
        for value in content.values():
            yield from _find_modules(value)
    elif isinstance(content, list):
        for value in content:
            yield from _find_modules(value)


def _list_elements(composition: Composition) -> frozenset[str]:
    return frozenset(element.symbol for element in composition.elements)
