"""Functional of a POTCAR: by LEXCH, else by its title in pymatgen's table of POTCARs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from monty.serialization import loadfn
from pymatgen.io.vasp.inputs import POTCAR_STATS_PATH

LEXCH_NAMES = {"PE": "PBE", "CA": "LDA", "91": "PW91", "PS": "PBEsol", "RP": "RPBE", "RE": "revPBE", "AM": "AM05"}
LEXCH_LINE = re.compile(r"^\s*LEXCH\s*=\s*(\w+)", re.MULTILINE)
TITLE_LINE = re.compile(r"^\s*TITEL\s*=\s*(.+?)\s*$", re.MULTILINE)
VALENCE_LINE = re.compile(r"ZVAL\s*=\s*([\d.]+)")
KIND = re.compile(r"\^?(?:PAW|US|NC)(?:_\w+)?")  # the first word of a title
# words of titles, of emmet's potcar_type and of pymatgen's sets of POTCARs; the first that is in the word counts
WORDS = (
    ("PBESOL", "PBEsol"),
    ("RPBE", "RPBE"),
    ("PBE", "PBE"),
    ("P_B_E", "PBE"),  # emmet up to 0.84, in `pseudo_potentials`
    ("PERDEW_ZUNGER81", "LDA"),
    ("LDA", "LDA"),
    ("PW91", "PW91"),
    ("GGA", "PW91"),
)
# functionals of a title without such a word: LDA as a rule, but also GW and fractional hydrogens of PBE
UNMARKED = frozenset({"LDA", "PW91", "PBE"})


@dataclass(frozen=True)
class Potcar:
    """One POTCAR of a run.

    Parameters
    ----------
    title
        Its title, or a substitute for it.
    functionals
        Its possible functionals; empty: not known.
    element
        Symbol.
    n_valence
        Its valence electrons, if known.
    """

    title: str
    functionals: frozenset[str] = frozenset()
    element: str | None = None
    n_valence: float | None = None


def describe_potcar(title: str, lexch: str | None = None, n_valence: float | None = None) -> Potcar:
    """A POTCAR by its title, such as "PAW_PBE Si 05Jan2001", or by a word for its kind; LEXCH wins over both."""
    words = title.split()
    element = re.split(r"[_.\d]", words[1])[0] if len(words) > 1 else None
    if lexch:
        name = LEXCH_NAMES.get(lexch.upper(), f"LEXCH = {lexch}")
        return Potcar(title, frozenset({name}), element, n_valence)
    known = _read_table().get("".join(words)) if len(words) > 1 else None
    if n_valence is None and known is not None and len(known.valences) == 1:
        (n_valence,) = known.valences
    return Potcar(title, _find_functionals(words, known), element, n_valence)


def read_potcar_text(text: str) -> list[Potcar]:
    """The POTCARs of a file, one after another."""
    blocks = re.split(r"End of Dataset", text)
    return [
        describe_potcar(
            title[1],
            lexch[1] if (lexch := LEXCH_LINE.search(block)) else None,
            float(valence[1]) if (valence := VALENCE_LINE.search(block)) else None,
        )
        for block in blocks
        if (title := TITLE_LINE.search(block))
    ]


def read_potcar_entry(entry: Any) -> Iterator[Potcar]:
    """POTCARs of an entry of a document: emmet's specs, a pymatgen Potcar, a summary, or words for the kind."""
    if isinstance(entry, str):
        yield describe_potcar(entry)
    elif isinstance(entry, Iterable) and not isinstance(entry, Mapping):
        for item in entry:
            yield from read_potcar_entry(item)
    elif entry is not None:
        content = entry if isinstance(entry, Mapping) else vars(entry)
        title = next(
            (str(content[key]) for key in ("titel", "TITEL", "functional", "pot_type") if content.get(key)), ""
        )
        lexch = content.get("lexch") or content.get("LEXCH")
        if title or lexch:
            yield describe_potcar(title, str(lexch) if lexch else None)


def find_functional(potcars: Iterable[Potcar]) -> tuple[str | None, str | None]:
    """The functional of all POTCARs of a run, or why it is not known; (None, None) without any information."""
    known = [potcar for potcar in potcars if potcar.functionals]
    if not known:
        return None, None
    titles = ", ".join(dict.fromkeys(potcar.title or next(iter(potcar.functionals)) for potcar in known))
    common = frozenset.intersection(*(potcar.functionals for potcar in known))
    if not common:
        return None, f"its POTCARs ({titles}) are of different functionals"
    if len(common) > 1:
        return None, f"its POTCARs ({titles}) may be of {' or '.join(sorted(common))}, and their LEXCH is not known"
    (name,) = common
    if name.startswith("LEXCH"):
        return None, f"its POTCARs ({titles}) have {name}"
    return name, None


def count_electrons(potcars: Iterable[Potcar], elements: Iterable[str]) -> float | None:
    """Valence electrons of neutral atoms of these elements; None if a POTCAR does not state them."""
    valences: dict[str | None, set[float | None]] = {}
    for potcar in potcars:
        valences.setdefault(potcar.element, set()).add(potcar.n_valence)
    total = 0.0
    for element in elements:
        found = valences.get(element, {None})
        if len(found) > 1 or None in found:
            return None
        total += next(n for n in found if n is not None)
    return total


@dataclass(frozen=True)
class _Known:
    """Entry of a title in pymatgen's table."""

    functionals: frozenset[str]
    valences: frozenset[float]


@cache
def _read_table() -> dict[str, _Known]:
    """Title without spaces -> the functionals and valences of the POTCARs that have it; 1 s, once."""
    found: dict[str, tuple[set[str], set[float]]] = {}
    for group in loadfn(POTCAR_STATS_PATH).values():
        for title, potcars in group.items():
            names, valences = found.setdefault(title, (set(), set()))
            for potcar in potcars:
                names.add(LEXCH_NAMES.get(str(potcar.get("LEXCH")), f"LEXCH = {potcar.get('LEXCH')}"))
                valences.add(float(potcar["ZVAL"]))
    return {title: _Known(frozenset(names), frozenset(valences)) for title, (names, valences) in found.items()}


def _find_functionals(words: list[str], known: _Known | None) -> frozenset[str]:
    """Possible functionals of a title: by the table, else by its first word."""
    if not words:
        return frozenset()
    marked = next((name for word, name in WORDS if word in words[0].upper()), None)
    if known is not None:
        return frozenset({marked}) if marked in known.functionals else known.functionals
    if marked is not None:
        return frozenset({marked})
    return UNMARKED if KIND.fullmatch(words[0].upper()) else frozenset()
