"""Read CIF block by block; a block whose sites do not match its stated atoms is refused with the reason."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from pymatgen.core import Element, Structure
from pymatgen.io.cif import CifParser, str2float

from e3relax_flows.candidates.formats import TOLERANCE, find_difference
from e3relax_flows.core.errors import StructureError
from e3relax_flows.core.notes import record_warnings

UNKNOWN = ("?", ".")
OUTSIDE = re.compile(r"^\s*_atom_site_(label|fract_x)[ \t]+\S", re.MULTILINE)
COORDINATES = tuple(f"_atom_site_fract_{axis}" for axis in "xyz")
MODULATED = ("_cell_modulation_dimension", "_cell_wave_vector", "_space_group_ssg")  # beginnings of names
SYMBOL, NUMBER = r"_(symmetry_)?space_group_(symop_)?name_.*", r"_(space_group_IT_number|symmetry_Int_Tables_number)_?"
TWO_ORIGINS = frozenset(
    (48, 50, 59, 68, 70, 85, 86, 88, 125, 126, 129, 130, 133, 134, 137, 138, 141, 142, 201, 203, 222, 224, 227, 228)
)
HEAVIEST = 103  # NH3 is not nihonium
WATER = ("Hw", "Ow")  # hydrogen and oxygen of water
POINT_DIGITS = 3  # of the coordinates of two atoms at one point
# pymatgen's notes that concern no atom
HARMLESS = re.compile(
    r"fractional coordinates rounded to ideal values|A 1-line symmetry op|Keys changed to match|Issues encountered|"
    r"Spacegroup from \S+ used|"
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
    """Blocks of a CIF that have sites, in their order; an error in one does not affect the others."""
    blocks = re.split(r"^\s*data_", f"\n{_clear_texts(text)}", flags=re.MULTILINE | re.IGNORECASE)[1:]
    return [found for block in blocks if (found := _read_block(block)) is not None]


def _clear_texts(text: str) -> str:
    """The text, without lines between semicolons that look like the start of a block."""
    lines, is_text = [], False
    for line in text.splitlines():
        if line.startswith(";"):
            is_text = not is_text
        lines.append(re.sub(r"^(\s*)data_", r"\1data-", line, flags=re.IGNORECASE) if is_text else line)
    return "\n".join(lines)


def _read_block(text: str) -> CifBlock | None:
    name = text.split(maxsplit=1)[0] if text.strip() else ""
    try:
        if OUTSIDE.search(text):
            raise StructureError("unreadable", "its site is outside of a loop_, which pymatgen misreads; write a loop_")
        with record_warnings() as warned:
            parser: Any = CifParser.from_str(f"data_{text}", check_cif=False)
            data: dict[str, Any] = next(iter(parser.as_dict().values()), {})
            if not _has_sites(data):
                return None
            _check_sites(data)
            _check_setting(data)
            structure = parser.parse_structures(primitive=False, on_error="raise")[0]
        notes = _choose_notes([*parser.warnings, *warned])
        _check_cell(structure, parser.symmetry_operations)
        if _check_formula(structure, data, notes):
            notes = [note for note in notes if " parsed as " not in note]
        else:
            _check_kinds(data)
    except Exception as error:  # the boundary between blocks: pymatgen raises various errors on bad input
        reason = re.sub(r"No structure parsed for section \d+ in CIF\.\s*", "", str(error))
        what = reason if isinstance(error, StructureError) else f"cannot be read ({type(error).__name__}: {reason})"
        return CifBlock(name, None, what)
    return CifBlock(name, structure, None, tuple(notes))


def _has_sites(data: Mapping[str, Any]) -> bool:
    """Whether a block has columns of sites with other values than question marks."""
    columns = [values for key, values in data.items() if key.startswith("_atom_site_")]
    return any(value != "?" for values in columns for value in values)


def _choose_notes(notes: list[str]) -> list[str]:
    """Notes that concern the atoms, each once.

    Raises
    ------
    StructureError
        When one of them reports a site that is not an atom.
    """
    kept = [note for note in dict.fromkeys(notes) if not HARMLESS.search(note)]
    lost = [match[1] or match[2] for note in kept if (match := NO_ATOM.search(note))]
    if lost:
        raise StructureError("unreadable", f"site {lost[0]} is not a single atom; give each atom coordinates")
    return kept


def _check_sites(data: Mapping[str, Any]) -> None:
    """Refuse sites without coordinates, or with atoms that have none of their own, and points with several atoms.

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
    points: dict[tuple[float, ...], list[tuple[str, str, float]]] = defaultdict(list)
    for label, kind, occupancy, attached, *xyz in zip(
        labels, types, occupancies, hydrogens, *(data[key] for key in COORDINATES), strict=True
    ):
        if occupancy == ".":  # the default, which pymatgen takes for zero
            raise StructureError("unreadable", f"the occupancy of site {label} is '.'; write 1 where the site is full")
        share = 1.0 if occupancy == "?" else str2float(occupancy)
        if share < 0:
            raise StructureError("unreadable", f"the occupancy of site {label} is {occupancy}; correct it")
        if share == 0:
            continue
        if "?" in xyz:  # a point is the default, which is zero
            raise StructureError(
                "unreadable", f"site {label} has no coordinates ({' '.join(xyz)}); add them, or remove the site"
            )
        if attached not in (*UNKNOWN, "0"):
            raise StructureError(
                "unreadable", f"site {label} has {attached} hydrogen atoms without coordinates; add them as sites"
            )
        point = tuple(round(str2float(value) % 1.0, POINT_DIGITS) % 1.0 for value in xyz)
        points[point].append((label, kind, share))
    for sites in points.values():
        _check_point(sites)


def _check_setting(data: Mapping[str, Any]) -> None:
    """Refuse structures that need more than one set of sites, and space groups whose origin is not stated."""
    if any(key.startswith(MODULATED) for key in data) and str(data.get(MODULATED[0])) not in ("0", *UNKNOWN):
        raise StructureError(
            "disordered", "its structure is modulated, and the sites are those of its mean; give an approximant"
        )
    groups = data.get("_atom_site_disorder_group") or []
    shares = data.get("_atom_site_occupancy") or ["1"] * len(groups)
    pairs = zip(groups, shares, strict=True) if groups else ()
    whole = {group for group, share in pairs if share in UNKNOWN or str2float(share) >= 1} - set(UNKNOWN)
    if len(whole) > 1:
        raise StructureError(
            "disordered", f"its disorder groups {', '.join(sorted(whole))} exclude each other; keep the sites of one"
        )
    if any("xyz" in key for key in data):
        return
    symbol = next((str(data[key]) for key in data if re.fullmatch(SYMBOL, key, re.IGNORECASE)), "")
    numbers = (str(data[key]) for key in data if re.fullmatch(NUMBER, key, re.IGNORECASE))
    number = next((int(text) for text in numbers if text.isdecimal()), 0)
    if number in TWO_ORIGINS and ":" not in symbol:
        raise StructureError(
            "unreadable",
            f"space group {number} has two origins, and the file does not state which; add its operations "
            "(_symmetry_equiv_pos_as_xyz)",
        )


def _check_cell(structure: Structure, operations: Iterable[Any]) -> None:
    """Refuse a cell that its operations change, such as rhombohedral axes with operations of hexagonal ones."""
    metric = structure.lattice.matrix @ structure.lattice.matrix.T
    for operation in operations:
        rotation = operation.rotation_matrix
        if np.abs(rotation.T @ metric @ rotation - metric).max() > 2 * TOLERANCE * metric.max():
            cell = ", ".join(f"{value:g}" for value in structure.lattice.parameters)
            raise StructureError(
                "unreadable",
                f"the cell ({cell}) is not one of its space group in the setting of its operations; give both in the "
                "same axes",
            )


def _check_kinds(data: Mapping[str, Any]) -> None:
    """Refuse atoms that are not elements; pymatgen would read the beginning of their names, such as Du as deuterium.

    Raises
    ------
    StructureError
        With the name.
    """
    column = "_atom_site_type_symbol" if "_atom_site_type_symbol" in data else "_atom_site_label"
    shares = data.get("_atom_site_occupancy") or ["1"] * len(data.get(column, ()))
    for kind, share in zip(data.get(column, ()), shares, strict=True):
        letters = (re.match(r"[A-Za-z]*", kind) or [""])[0].title()
        is_element = Element.is_valid_symbol(letters) and Element(letters).Z <= HEAVIEST
        if share != "0" and letters not in WATER and not is_element:
            raise StructureError(
                "unknown_element", f"a site is of kind {kind}, which is not an element; name its element, or remove it"
            )


def _check_point(sites: list[tuple[str, str, float]]) -> None:
    """Refuse several whole atoms at one point, and hydrogen with its isotopes, which pymatgen confuses."""
    isotopes = {kind[:1] for _, kind, _ in sites if re.match(r"[HDT](?![a-z])", kind)}
    if sum(share for *_, share in sites) > 1 + TOLERANCE or len(isotopes) > 1:
        words = ", ".join(f"{label} ({kind}, {share:g})" for label, kind, share in sites)
        raise StructureError(
            "disordered",
            f"the sites {words} are at one point; only ordered structures can be relaxed: keep one of them",
        )


def _check_formula(structure: Structure, data: Mapping[str, Any], notes: list[str]) -> bool:
    """Refuse sites that do not match the formula of the block; False if there is no formula, or it cannot be read.

    Raises
    ------
    StructureError
        With the missing elements.
    """
    formula = str(data.get("_chemical_formula_sum") or "").strip("'\" ")
    if formula in ("", *UNKNOWN):
        return False
    try:
        difference = find_difference(structure, formula)
    except ValueError:
        notes.append(f"its formula {formula!r} cannot be read and was not compared with its sites")
        return False
    if difference:
        warned = f" (pymatgen: {'; '.join(notes)})" if notes else ""
        advice = f"correct the file, or remove the line of the formula{warned}"
        raise StructureError("unreadable", f"{difference}; {advice}")
    return True
