"""Refuse what parsers ignore: sites beyond the counts, missing periods, partial occupancies, another formula."""

from __future__ import annotations

import re
from collections import defaultdict

from pymatgen.core import Composition, Element, Structure

from e3relax_flows.core.errors import StructureError

TOLERANCE = 0.01  # relative, of the ratios between formula and sites

FULL = ("1", "11")  # occupancies of whole sites: SHELXL adds 10 to values that it does not refine


def check_text(name: str, text: str) -> None:
    """Refuse a file that holds more than the structure that a parser would read.

    Parameters
    ----------
    name
        Of the file, in small letters, without the ending of a compression.

    Raises
    ------
    StructureError
        With the line that would be ignored.
    """
    if "poscar" in name or "contcar" in name or name.endswith(".vasp"):
        _check_poscar(text.splitlines())
    elif name.endswith(".xsf"):
        _check_xsf(text)
    elif name.endswith(".res"):
        _check_res(text)


def _check_poscar(lines: list[str]) -> None:
    """Refuse more sites than the line of counts has."""
    counts = next((number for number in range(5, len(lines)) if re.fullmatch(r"[\d\s]+", lines[number])), None)
    if counts is None:
        return
    last = counts
    while last + 1 < len(lines) and re.fullmatch(r"[\d\s]+", lines[last + 1]) and lines[last + 1].strip():
        last += 1  # many kinds take several lines
    n_sites = sum(int(count) for line in lines[counts : last + 1] for count in line.split())
    has_switches = last + 1 < len(lines) and lines[last + 1].strip()[:1] in ("S", "s")
    after = last + 2 + has_switches + n_sites
    if after < len(lines) and len(_read_numbers(lines[after])) >= 3:
        raise StructureError(
            "unreadable",
            f"line {after + 1} holds a site more than the {n_sites} of the line of counts; correct the counts, or put "
            "an empty line before velocities",
        )


def _check_xsf(text: str) -> None:
    """Refuse structures that are periodic along fewer than three directions."""
    kind = re.search(r"^\s*(MOLECULE|POLYMER|SLAB)\b", text, re.MULTILINE)
    if kind:
        raise StructureError(
            "not_a_structure",
            f"it is a {kind[1]}, which is not periodic along three vectors; write it as CRYSTAL with its vacuum, and "
            "keep that of a layer with --constrain vacuum-c",
        )


def _check_res(text: str) -> None:
    """Refuse sites that are not fully occupied."""
    for line in text.splitlines():
        words = line.split()
        if len(words) < 6 or not re.fullmatch(r"[A-Z][a-z]?\w*", words[0]) or not words[1].isdecimal():
            continue
        numbers = _read_numbers(" ".join(words[2:6]))
        if len(numbers) == 4 and f"{numbers[3]:g}" not in FULL:
            raise StructureError(
                "disordered",
                f"the occupancy of site {words[0]} is {words[5]}; only ordered structures can be relaxed",
            )


def _read_numbers(line: str) -> list[float]:
    """Numbers at the beginning of a line."""
    numbers: list[float] = []
    for word in line.split():
        try:
            numbers.append(float(word))
        except ValueError:
            break
    return numbers


def find_difference(structure: Structure, formula: str) -> str | None:
    """The difference of sites and formula, in words; None if both are the same up to a factor.

    Isotopes count as their element. Ratios are compared if each site is fully occupied by one element.

    Raises
    ------
    ValueError
        When the formula cannot be read.
    """
    stated, found = _count_elements(Composition(formula)), _count_elements(structure.composition)
    if missing := _name(stated.keys() - found.keys()):
        return f"its formula {formula!r} has {missing}, and no site has"
    if extra := _name(found.keys() - stated.keys()):
        return f"its sites have {extra}, and its formula {formula!r} has not"
    ratios = [found[number] / stated[number] for number in stated]
    if structure.is_ordered and max(ratios) > (1 + TOLERANCE) * min(ratios):
        made = structure.composition.formula
        return f"its sites make {made}, not its formula {formula!r}: atoms or symmetry operations are missing"
    return None


def _count_elements(composition: Composition) -> dict[int, float]:
    """Amount of each element by its atomic number."""
    counts: dict[int, float] = defaultdict(float)
    for specie, amount in composition.items():
        if not Element.is_valid_symbol(specie.symbol):
            raise ValueError(f"{specie} is not an element")
        counts[specie.Z] += amount
    return counts


def _name(numbers: set[int]) -> str:
    return ", ".join(Element.from_Z(number).symbol for number in sorted(numbers))
