"""Read structures from files, folders and lists; an unreadable one becomes an item with the reason."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

from pymatgen.core import Structure
from pymatgen.io.vasp.inputs import BadPoscarWarning, Poscar

from e3relax_flows.candidates.cif import read_cif
from e3relax_flows.candidates.formats import check_text
from e3relax_flows.candidates.items import MARK, ReadItem
from e3relax_flows.candidates.optimade import is_response, read_resource, read_response
from e3relax_flows.core.ase_atoms import convert_atoms
from e3relax_flows.core.errors import E3RelaxError, StructureError, describe_unreadable
from e3relax_flows.core.notes import record_warnings
from e3relax_flows.core.optional import require
from e3relax_flows.core.records import build_side, build_structure, find_nulls, find_structure, is_structure
from e3relax_flows.core.text_files import cut_compression, open_text, unpack_file

ASE_ENDINGS = (".xyz", ".extxyz", ".traj")
# files that are read in a folder; a file that is named itself is always tried
PATTERNS = (
    *("*.cif", "*.mcif", "*poscar*", "*contcar*", "*.vasp", "vasprun*.xml", "*.xsf", "*.cssr", "*.res"),
    *("*.xyz", "*.extxyz", "*.traj", "*.json", "*.jsonl"),
)
HARMLESS = ("Ignoring selective dynamics tag",)  # beginnings of warnings that change no structure
SWITCHES = "Selective dynamics values must be"  # beginning of a warning
SHOWN = 3  # reasons why parts of a file cannot be read, and notes of one structure
ID_KEYS = ("id", "material_id", "structure_id", "entry_id", "task_id", "name")
ADVICE = "give files that pymatgen reads (CIF, POSCAR, ...), folders of them, or .json(.gz)/.jsonl(.gz) of structures"


class Parsed(NamedTuple):
    """One structure of a file, or the reason why it cannot be read."""

    structure: Structure | None
    error: str | None = None
    notes: Sequence[str] = ()


def read_structures(inputs: Iterable[str | Path]) -> Iterator[ReadItem]:
    """Read structures one by one, in the order of `inputs`.

    Files may be packed (.gz, .bz2, .xz, .z) and begin with a byte-order mark. A folder gives its structure files and
    those of its folders, sorted by name. Lists and dictionaries of structures (.json, .jsonl) may hold pymatgen
    dictionaries, documents with a `structure` (such as the Materials Project's and our predictions) or, if there is
    none, an `initial_structure` or similar, pairs with an `initial` side, which is used, and tables of pandas. Ids
    are the documents' own, the keys of a dictionary or the names of files, with a number added to those that repeat.

    Examples
    --------
    >>> from pathlib import Path
    >>> from pymatgen.core import Lattice, Structure
    >>> from e3relax_flows import read_structures
    >>> _ = Structure(Lattice.rhombohedral(2.7, 60), ["Cu"], [[0, 0, 0]]).to("copper.cif")
    >>> [(item.id, len(item.structure)) for item in read_structures(["copper.cif"])]
    [('copper', 1)]
    >>> [item.error is None for item in read_structures(["absent.cif"])]
    [False]
    """
    known: dict[str, int] = {}
    for path in map(Path, inputs):
        for item in _read_path(path.expanduser()):
            yield item._replace(id=make_unique(item.id, known))


def _read_path(path: Path) -> Iterator[ReadItem]:
    if path.is_dir():
        files = sorted(file for file in [*path.glob("*"), *path.glob("[!.]*/*")] if _is_wanted(file))
        if not files:
            yield ReadItem(path.name, None, f"{path}: no structures in this folder; {ADVICE}")
        for file in files:
            yield from _read_file(file)
    elif path.exists():
        yield from _read_file(path)
    else:
        yield ReadItem(_cut_name(path), None, f"{path}: there is no such file or folder; {ADVICE}")


def _is_wanted(path: Path) -> bool:
    name = cut_compression(path.name.lower())
    return path.is_file() and not name.startswith(".") and any(fnmatch(name, pattern) for pattern in PATTERNS)


def _read_file(path: Path) -> Iterator[ReadItem]:
    """Items of one file; its errors do not affect other files."""
    name, stem = cut_compression(path.name.lower()), _cut_name(path)
    try:
        if name.endswith(".jsonl"):
            yield from _read_lines(path, stem)
        elif name.endswith(".json"):
            with open_text(path) as stream:
                content = json.load(stream)
            yield from _read_content(content, stem, path)
        else:
            with unpack_file(path, is_text=not name.endswith(".traj")) as plain:
                parsed = _parse_file(plain, name)
            yield from _name_parsed(parsed, stem, path)
    except StructureError as error:
        yield ReadItem(stem, None, f"{path}: {error}")
    except Exception as error:  # the boundary between files: parsers raise various errors on bad input
        yield ReadItem(stem, None, f"{path}: {describe_unreadable(error)}; {_advise(path, error)}")


def _name_parsed(parsed: list[Parsed], stem: str, path: Path) -> Iterator[ReadItem]:
    """Items of one file, and one more for its unreadable parts."""
    good = [each for each in parsed if each.structure is not None]
    ids = [stem] if len(good) == 1 else [f"{stem}-{index}" for index in range(1, len(good) + 1)]
    for id, each in zip(ids, good, strict=True):
        yield ReadItem(id, each.structure, None, f"{path}: {'; '.join(each.notes[:SHOWN])}" if each.notes else None)
    lost = [each.error for each in parsed if each.error is not None]
    reasons = "; ".join([*lost[:SHOWN], *(["..."] if len(lost) > SHOWN else [])])
    if not good:
        advice = "" if lost and "cannot be read (" not in reasons else f"; {_advise(path)}"
        yield ReadItem(stem, None, f"{path}: {reasons or 'no structures'}{advice}")
    elif lost:
        words = f"{len(lost)} of {len(parsed)} {_name_parts(path)} cannot be read: {reasons}"
        yield ReadItem(f"{stem}-unread", None, f"{path}: {words}; correct or remove them")


def _name_parts(path: Path) -> str:
    return "frames" if cut_compression(path.name.lower()).endswith(ASE_ENDINGS) else "blocks"


def _parse_file(path: Path, name: str) -> list[Parsed]:
    """The entries of a file."""
    if name.endswith((".cif", ".mcif")):
        blocks = read_cif(path.read_text(encoding="utf-8", errors="replace"))
        return [
            Parsed(block.structure, block.error and f"block {block.name!r}: {block.error}", block.notes)
            for block in blocks
        ]
    if name.endswith(ASE_ENDINGS):
        return _parse_frames(path)
    if not name.endswith(".xml"):
        check_text(name, path.read_text(encoding="utf-8", errors="replace"))
    try:
        with record_warnings() as notes:
            # without element names pymatgen would take hydrogen, helium, ... instead, and .TRUE. for F
            warnings.filterwarnings("error", message=f"Elements in POSCAR|{SWITCHES}", category=BadPoscarWarning)
            if "poscar" in name or "contcar" in name:  # in small letters too, which from_file does not know
                structure = Poscar.from_file(path, check_for_potcar=False).structure
            else:
                structure = Structure.from_file(path)
    except BadPoscarWarning as warning:
        if not str(warning).startswith(SWITCHES):
            raise
        raise StructureError("constraint", f"{warning} Write T or F after the three coordinates of each site") from None
    return [Parsed(structure, None, [note for note in notes if not note.startswith(HARMLESS)])]


def _parse_frames(path: Path) -> list[Parsed]:
    """Frames of a file that ASE reads; an error in one does not affect the others."""
    ase_io = require("ase.io", "mlip", f"reading {path.name}")
    parsed = []
    for number, frame in enumerate(ase_io.iread(str(path), index=":"), start=1):
        try:
            with record_warnings() as notes:
                structure = convert_atoms(frame)
            parsed.append(Parsed(structure, None, notes))
        except Exception as error:  # the boundary between frames
            parsed.append(Parsed(None, f"frame {number}: {describe_unreadable(error)}"))
    return parsed


def _read_lines(path: Path, stem: str) -> Iterator[ReadItem]:
    with open_text(path) as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            where = f"{path}, line {number}"
            try:
                entry = json.loads(line.lstrip(MARK))  # files that were put together have one in the middle
            except ValueError as error:
                yield ReadItem(f"{stem}-{number}", None, f"{where}: not JSON ({error}); write one structure per line")
                continue
            yield from _read_line(entry, f"{stem}-{number}", where)


def _read_line(entry: Any, fallback_id: str, where: str) -> Iterator[ReadItem]:
    """One entry of a list, which may be a resource of OPTIMADE."""
    if is_response(entry):
        yield from read_resource(entry, fallback_id, where)
    else:
        yield _read_entry(entry, fallback_id, where)


def _read_content(content: Any, stem: str, path: Path) -> Iterator[ReadItem]:
    """Items of a JSON file: one structure, a list of them, a table, a dictionary by ids, or an answer of OPTIMADE."""
    if is_response(content):
        yield from read_response(content, stem, path)
    elif isinstance(content, dict) and not _find_structure(content) and not _is_document(content):
        if not content:
            yield ReadItem(stem, None, f"{path}: it is empty; {ADVICE}")
        rows = _list_rows(content)
        for key, entry in (rows or content).items():
            if isinstance(entry, list) and any(isinstance(item, dict) for item in entry):
                for number, item in enumerate(entry, start=1):
                    yield _read_entry(item, f"{stem}-{number}", f"{path}, key {key!r}, entry {number}")
            elif not _is_remark(entry, content):
                yield _read_entry(entry, str(key), f"{path}, key {key!r}", keep_id=not rows)
    elif isinstance(content, list):
        for number, entry in enumerate(content, start=1):
            yield from _read_line(entry, f"{stem}-{number}", f"{path}, entry {number}")
    else:
        yield _read_entry(content, stem, str(path))


def _list_rows(content: dict[str, Any]) -> dict[str, Any]:
    """Rows of a table that pandas wrote by columns, or with the names of columns apart; empty if it is not a table."""
    columns, data = content.get("columns"), content.get("data")
    if isinstance(columns, list) and isinstance(data, list):
        names = content.get("index") or range(1, len(data) + 1)
        return {str(name): dict(zip(columns, row, strict=False)) for name, row in zip(names, data, strict=False)}
    cells = {name: column for name, column in content.items() if isinstance(column, dict)}
    keys = dict.fromkeys(key for column in cells.values() for key in column)
    rows = {key: {name: column.get(key) for name, column in cells.items()} for key in keys}
    return rows if any(find_structure(row) for row in rows.values()) else {}


def _is_remark(entry: Any, content: dict[str, Any]) -> bool:
    """Whether an entry next to a list of structures is not a structure, and not meant as one."""
    return not isinstance(entry, dict) and any(isinstance(value, list) for value in content.values())


def _read_entry(entry: Any, fallback_id: str, where: str, keep_id: bool = False) -> ReadItem:
    """One structure, document or pair; its own id wins over `fallback_id` unless that is kept."""
    kind = _find_structure(entry) if isinstance(entry, dict) else None
    if kind is None:
        found = f"keys {sorted(map(str, entry))[:6]}" if isinstance(entry, dict) else json.dumps(entry)[:40]
        nulls = "; ".join(f"{name!r} is null" for name in find_nulls(entry)) if isinstance(entry, dict) else ""
        if isinstance(entry, dict) and "@class" in entry:
            found = f"a {entry['@class']} of {entry.get('@module')}"
        return ReadItem(
            fallback_id,
            None,
            f"{where}: no structure ({nulls or found}); give pymatgen dictionaries, documents with a `structure`, or "
            "pairs with `numbers` and an `initial` side",
        )
    own = next((entry[key] for key in ID_KEYS if isinstance(entry.get(key), str | int)), None)
    id = fallback_id if keep_id or own is None or kind == "structure" else str(own)
    try:
        with record_warnings() as notes:
            structure = _build_structure(entry, kind)
        return ReadItem(id, structure, None, f"{where}: {'; '.join(notes)}" if notes else None)
    except Exception as error:  # the boundary between entries
        return ReadItem(
            id, None, f"{where}: {describe_unreadable(error)}; write the structure again with Structure.as_dict()"
        )


def _is_document(content: dict[str, Any]) -> bool:
    """Whether a dictionary is one object or record, and not one of structures by their ids."""
    return "@class" in content or (
        bool(content) and not any(isinstance(value, dict | list) for value in content.values())
    )


def _find_structure(entry: dict[str, Any]) -> str | None:
    """The structure in a dictionary: the dictionary itself, or a field of a document or pair."""
    if is_structure(entry):
        return "structure"
    if isinstance(entry.get("initial"), dict) and "frac" in entry["initial"] and "numbers" in entry:
        return "pair"
    return "document" if find_structure(entry) is not None else None


def _build_structure(entry: dict[str, Any], kind: str) -> Structure:
    if kind == "pair":
        return build_side(entry["initial"], entry["numbers"], "initial")
    name, content = ("", entry) if kind == "structure" else find_structure(entry) or ("", entry)
    return build_structure(content, name)


def _cut_name(path: Path) -> str:
    """Name of a file without the suffixes of its format; POSCAR.mp-22862 stays."""
    name = path.name[: len(cut_compression(path.name.lower()))]
    endings = {Path(pattern).suffix for pattern in PATTERNS} | set(ASE_ENDINGS)
    stem, dot, ending = name.rpartition(".")
    return stem if stem and dot + ending.lower() in endings | {".xml", ".yaml", ".yml"} else name


def _advise(path: Path, error: Exception | None = None) -> str:
    """Advice for an unreadable file: give another one, or check its content if pymatgen knows its name."""
    name = path.name.lower()
    if isinstance(error, E3RelaxError) or not _is_wanted(path):
        return ADVICE
    if "poscar" in name or "contcar" in name or name.endswith(".vasp"):
        return "check it: do the numbers of atoms match the elements and the lines of sites?"
    return "check it: is it complete, and of the format of its name?"


def make_unique(id: str, known: dict[str, int]) -> str:
    """The id, or with the first number that makes it new."""
    if id not in known:
        known[id] = 1
        return id
    while True:
        known[id] += 1
        candidate = f"{id}-{known[id]}"
        if candidate not in known:
            known[candidate] = 1
            return candidate
