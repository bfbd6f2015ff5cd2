"""Read CIF block by block; a block whose sites are not the atoms that it states is refused, with what is missing."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Any, NamedTuple

from pymatgen.core import Composition, Element, Structure
from pymatgen.io.cif import CifParser, str2float

from e3relax_flows.core.errors import StructureError
from e3relax_flows.core.notes import record_warnings

UNKNOWN = ("?", ".")
OUTSIDE = re.compile(r"^\s*_atom_site_(label|fract_x)[ \t]+\S", re.MULTILINE)
COORDINATES = tuple(f"_atom_site_fract_{axis}" for axis in "xyz")
TOLERANCE = 0.01  # relative, of the ratios between formula and sites
PLACE_DIGITS = 3  # of the coordinates of two atoms in one place
# pymatgen's notes on what changes no atom
HARMLESS = re.compile(
    r"fractional coordinates rounded to ideal values|A 1-line symmetry op|Keys changed to match|Issues encountered|"
    r"^(Hw|Ow)\w* parsed as [HO]$|No structure parsed"
)
NO_ATOM = re.compile(r"^(\S+) parsed as ?$|^([wW]at\S*|OH2\S*) parsed as O$")  # OH, water: several atoms in one site


class CifBlock(NamedTuple):
    """A data block that has sites: its structure, or why there is none."""

    name: str
    structure: Structure | None
    error: str | None = None
    notes: tuple[str, ...] = ()  # what pymatgen warned of


def read_cif(text: str) -> list[CifBlock]:
    """Blocks of a CIF that have sites, in their order; what one lacks costs the others nothing."""
    blocks = re.split(r"^\s*data_", f"\n{text}", flags=re.MULTILINE | re.IGNORECASE)[1:]
    return [found for block in blocks if (found := _read_block(block)) is not None]


def _read_block(text: str) -> CifBlock | None:
    name = text.split(maxsplit=1)[0] if text.strip() else ""
    try:
        if OUTSIDE.search(text):
            raise StructureError(
                "unreadable", "its site stands outside of a loop_, which pymatgen misreads; write a loop_"
            )
        with record_warnings() as warned:
            parser: Any = CifParser.from_str(f"data_{text}", check_cif=False)
            data: dict[str, Any] = next(iter(parser.as_dict().values()), {})
            if not any(key.startswith("_atom_site_") for key in data):
                return None
            _check_sites(data)
            structure = parser.parse_structures(primitive=False, on_error="raise")[0]
        notes = _choose_notes([*parser.warnings, *warned])
        _check_formula(structure, data, notes)
    except Exception as error:  # the boundary between blocks: pymatgen raises anything on bad input
        reason = re.sub(r"No structure parsed for section \d+ in CIF\.\s*", "", str(error))
        what = reason if isinstance(error, StructureError) else f"cannot be read ({type(error).__name__}: {reason})"
        return CifBlock(name, None, what)
    return CifBlock(name, structure, None, tuple(notes))


def _choose_notes(notes: list[str]) -> list[str]:
    """Notes that concern the atoms, each once.

    Raises
    ------
    StructureError
        When one of them says that a site is no atom.
    """
    kept = [note for note in dict.fromkeys(notes) if not HARMLESS.search(note)]
    lost = [match[1] or match[2] for note in kept if (match := NO_ATOM.search(note))]
    if lost:
        raise StructureError("unreadable", f"site {lost[0]} is no single atom; give each of its atoms coordinates")
    return kept


def _check_sites(data: Mapping[str, Any]) -> None:
    """Refuse sites without coordinates, or with atoms that have none of their own, and places that hold several atoms.

    Raises
    ------
    StructureError
        With the site and what to do.
    """
    if not all(key in data for key in COORDINATES):
        raise StructureError("unreadable", f"its sites have no {COORDINATES[0]}; give fractional coordinates")
    n_sites = len(data[COORDINATES[0]])
    types = data.get("_atom_site_type_symbol") or data.get("_atom_site_label") or ["?"] * n_sites
    labels = data.get("_atom_site_label") or types
    occupancies = data.get("_atom_site_occupancy") or ["1"] * n_sites
    hydrogens = data.get("_atom_site_attached_hydrogens") or ["0"] * n_sites
    places: dict[tuple[float, ...], list[tuple[str, str, float]]] = defaultdict(list)
    for label, kind, occupancy, attached, *xyz in zip(
        labels, types, occupancies, hydrogens, *(data[key] for key in COORDINATES), strict=True
    ):
        if occupancy == ".":  # the default, which pymatgen takes for zero
            raise StructureError("unreadable", f"the occupancy of site {label} is '.'; write 1 where the site is full")
        share = 1.0 if occupancy == "?" else str2float(occupancy)
        if share <= 0:
            continue
        if any(value in UNKNOWN for value in xyz):
            raise StructureError(
                "unreadable", f"site {label} has no coordinates ({' '.join(xyz)}); find its place, or remove the site"
            )
        if attached not in (*UNKNOWN, "0"):
            raise StructureError(
                "unreadable", f"site {label} has {attached} hydrogen atoms without coordinates; add them as sites"
            )
        place = tuple(round(str2float(value) % 1.0, PLACE_DIGITS) % 1.0 for value in xyz)
        places[place].append((label, kind, share))
    for sites in places.values():
        _check_place(sites)


def _check_place(sites: list[tuple[str, str, float]]) -> None:
    """Refuse atoms that are all wholly in one place, and hydrogen beside its isotopes, which pymatgen mixes up."""
    isotopes = {kind[:1] for _, kind, _ in sites if re.match(r"[HDT](?![a-z])", kind)}
    if sum(share for *_, share in sites) > 1 + TOLERANCE or len(isotopes) > 1:
        words = ", ".join(f"{label} ({kind}, {share:g})" for label, kind, share in sites)
        raise StructureError(
            "disordered",
            f"the sites {words} are in one place; only ordered structures can be relaxed: keep one of them",
        )


def _check_formula(structure: Structure, data: Mapping[str, Any], notes: list[str]) -> None:
    """Refuse sites that do not make the formula of the block; add a note where that cannot be read.

    Raises
    ------
    StructureError
        With the elements that are missing.
    """
    formula = str(data.get("_chemical_formula_sum") or "").strip("'\" ")
    if formula in ("", *UNKNOWN):
        return
    try:
        stated = _count_elements(Composition(formula))
    except ValueError:
        notes.append(f"its formula {formula!r} cannot be read and was not compared with its sites")
        return
    found = _count_elements(structure.composition)
    missing, extra = (_name(these.keys() - those.keys()) for these, those in ((stated, found), (found, stated)))
    advice = f"correct the file, or take the line of the formula out of it{_append(notes)}"
    if missing:
        raise StructureError("unreadable", f"its formula {formula!r} has {missing}, and no site has; {advice}")
    if extra:
        raise StructureError("unreadable", f"its sites have {extra}, and its formula {formula!r} has not; {advice}")
    ratios = [found[number] / stated[number] for number in stated]
    if structure.is_ordered and max(ratios) > (1 + TOLERANCE) * min(ratios):
        made = structure.composition.formula
        raise StructureError(
            "unreadable",
            f"its sites make {made}, not its formula {formula!r}: atoms or symmetry operations are missing; {advice}",
        )


def _count_elements(composition: Composition) -> dict[int, float]:
    """Amount of each element by its atomic number; isotopes count as their element."""
    counts: dict[int, float] = defaultdict(float)
    for specie, amount in composition.items():
        if not Element.is_valid_symbol(specie.symbol):
            raise ValueError(f"{specie} is no element")
        counts[specie.Z] += amount
    return counts


def _name(numbers: set[int]) -> str:
    return ", ".join(Element.from_Z(number).symbol for number in sorted(numbers))


def _append(notes: list[str]) -> str:
    return f" (pymatgen: {'; '.join(notes)})" if notes else ""
