"""Read relaxations from files and write pairs to files: pair lines, pymatgen JSON, trajectories."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pymatgen.core import Structure

from e3relax_flows.core.errors import ConfigError, describe_unreadable
from e3relax_flows.core.functionals import read_pressure
from e3relax_flows.core.records import build_side, build_structure, is_structure
from e3relax_flows.core.residues import measure_force
from e3relax_flows.core.text_files import COMPRESSIONS, cut_compression, open_text, unpack_file
from e3relax_flows.pairs.making import LeftOutError
from e3relax_flows.pairs.trajectories import LARGEST_FORCE, read_trajectory
from e3relax_flows.schemas.outcomes import RelaxationResult
from e3relax_flows.schemas.pairs import Freedom, LeftOut, PairDoc, PairStart

TRAJECTORIES = (".extxyz", ".xyz", ".traj")
ENDINGS = tuple(kind + packed for kind in (".jsonl", ".json", *TRAJECTORIES) for packed in ("", *COMPRESSIONS))
# usual names of the two structures
SIDES = (
    ("initial", "relaxed"),
    ("initial_structure", "relaxed_structure"),
    ("initial_structure", "final_structure"),
    ("initial", "final"),
    ("input_structure", "output_structure"),
)
ID_KEYS = ("name", "id", "material_id", "mp_id", "structure_id")
CLAIMS = ("converged", "is_converged")
UNKNOWN_CODE = "unknown"
FORM = (
    '{"numbers", "initial": {"lattice", "frac"}, "relaxed": {"lattice", "frac"}}, or two pymatgen structures '
    'named "initial" and "relaxed"'
)


@dataclass(frozen=True)
class FilePair:
    """One relaxation of a file, or the reason why it cannot be read.

    Parameters
    ----------
    location
        Path of the file and position in it; unique.
    content
        Fields of `PairDoc` that the file states.
    result
        None where there is no relaxation.
    reason, message
        Why there is none.
    """

    location: str
    content: Mapping[str, Any]
    result: RelaxationResult | None = None
    reason: LeftOut | None = None
    message: str | None = None


@dataclass(frozen=True)
class Stated:
    """Statements of the user for files that do not hold them.

    Parameters
    ----------
    functional
        With which the relaxed sides were computed; overrides that of a file.
    is_dft
        False for potentials.
    converged
        Whether trajectories without forces, or without the stress of a cell that changes, converged.
    """

    functional: str | None = None
    is_dft: bool = True
    converged: bool = False


def read_pair_file(path: Path, stated: Stated | None = None) -> Iterator[FilePair]:
    """Relaxations of one file, one after another; an unreadable one is an item with the reason.

    Parameters
    ----------
    path
        .jsonl or .json, also packed, of pairs in our own form or of pymatgen structures; or a trajectory that ASE
        reads, whose first and last frame are taken. A pair without a statement of convergence counts as
        relaxed; a trajectory must show it.
    stated
        Used where the file has no statement.
    """
    stated, name = stated or Stated(), cut_compression(path.name.lower())
    try:
        if name.endswith(TRAJECTORIES):
            yield _read_trajectory(path, stated)
            return
        for location, entry in _iter_entries(path, name):
            yield _read_entry(entry, location, stated)
    except Exception as error:  # the boundary between files: parsers raise various errors on bad input
        yield FilePair(str(path), {}, reason=LeftOut.UNREADABLE, message=f"{path}: {describe_unreadable(error)}")


def write_pair_file(path: Path, pairs: Iterable[PairDoc]) -> int:
    """Write pairs as lines of JSON, gzipped where the name ends in .gz; the file is written atomically.

    Returns
    -------
    n_pairs
        The number written.

    Examples
    --------
    >>> from pathlib import Path
    >>> from pymatgen.core import Lattice, Structure
    >>> from e3relax_flows import write_pair_file
    >>> from e3relax_flows.testing import make_pair
    >>> before, after = (Structure(Lattice.rhombohedral(a, 60), ["Cu"], [[0, 0, 0]]) for a in (2.7, 2.5))
    >>> write_pair_file(Path("pairs.jsonl.gz"), [make_pair(before, after)])
    1
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.part")
    n_pairs = 0
    with temporary.open("wb") as file:
        # without time and name of the file, so that equal content gives equal bytes
        stream: Any = gzip.GzipFile("", "wb", fileobj=file, mtime=0) if path.suffix == ".gz" else file
        for pair in pairs:
            line = json.dumps(describe_pair(pair), separators=(",", ":"), allow_nan=False)
            stream.write(line.encode() + b"\n")
            n_pairs += 1
        if stream is not file:
            stream.close()
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    return n_pairs


def describe_pair(pair: PairDoc) -> dict[str, Any]:
    """A pair as a line of a pair file: the fields for training and for its id."""
    return {
        "id": pair.pair_id,
        "name": pair.id,
        "source": pair.source,
        "group": pair.prototype,
        "numbers": [site.specie.Z for site in pair.initial],
        "initial": _describe_structure(pair.initial),
        "relaxed": _describe_structure(pair.relaxed),
        "start": pair.start_kind.value,
        "functional": pair.functional,
        "functional_path": pair.functional_path,
        "code": pair.code,
        "is_dft": pair.is_dft,
        "free": pair.free.model_dump(),
        "energy": pair.energy,
        "n_ionic_steps": pair.n_ionic_steps,
        "n_electronic_steps": pair.n_electronic_steps,
        "model_id": pair.model_id,
        "prediction_id": pair.prediction_id,
        "formula": pair.formula,
        "chemical_system": pair.chemical_system,
        "prototype": pair.prototype,
    }


def _describe_structure(structure: Structure) -> dict[str, Any]:
    return {"lattice": structure.lattice.matrix.tolist(), "frac": structure.frac_coords.tolist()}


def _iter_entries(path: Path, name: str) -> Iterator[tuple[str, Any]]:
    """Entries of a JSON file with their positions."""
    with open_text(path) as stream:
        if name.endswith(".jsonl"):
            for number, line in enumerate(stream, start=1):
                if line.strip():
                    yield f"{path} line {number}", line
            return
        content = json.load(stream)
    if isinstance(content, Mapping) and _find_sides(content) is None:
        for key, entry in content.items():
            yield f"{path} key {key!r}", {"id": key, **entry} if isinstance(entry, Mapping) else entry
    elif isinstance(content, list) and not (len(content) == 2 and all(is_structure(item) for item in content)):
        for number, entry in enumerate(content, start=1):
            yield f"{path} entry {number}", entry
    else:
        yield str(path), content


def _read_entry(entry: Any, location: str, stated: Stated) -> FilePair:
    try:
        entry = json.loads(entry) if isinstance(entry, str) else entry
        if isinstance(entry, list) and len(entry) == 2:
            entry = {"initial": entry[0], "relaxed": entry[1]}
        sides = _find_sides(entry) if isinstance(entry, Mapping) else None
        if sides is None:
            found = f"keys {sorted(entry)[:6]}" if isinstance(entry, Mapping) else type(entry).__name__
            raise ConfigError(f"not a pair ({found}); a pair is {FORM}")
        initial, relaxed = (_build_structure(entry[side], entry) for side in sides)
        return FilePair(location, _read_content(entry), _make_result(initial, relaxed, entry, stated))
    except Exception as error:  # the boundary between entries
        return FilePair(location, {}, reason=LeftOut.UNREADABLE, message=f"{location}: {describe_unreadable(error)}")


def _find_sides(entry: Mapping[str, Any]) -> tuple[str, str] | None:
    return next((pair for pair in SIDES if all(isinstance(entry.get(side), Mapping) for side in pair)), None)


def _build_structure(side: Mapping[str, Any], entry: Mapping[str, Any]) -> Structure:
    return build_structure(side) if is_structure(side) else build_side(side, entry.get("numbers"), "side")


def _make_result(initial: Structure, relaxed: Structure, entry: Mapping[str, Any], stated: Stated) -> RelaxationResult:
    functional = stated.functional or entry.get("functional")
    is_dft = _read_flag(entry.get("is_dft", True), "is_dft") and stated.is_dft
    forces = entry.get("forces")
    is_at_rest = forces is None or measure_force(np.asarray(forces, dtype=float)) <= LARGEST_FORCE
    free = entry.get("free")
    return RelaxationResult(
        initial=initial,
        relaxed=relaxed,
        energy=entry.get("energy"),
        n_ionic_steps=entry.get("n_ionic_steps"),
        n_electronic_steps=entry.get("n_electronic_steps"),
        converged=all(_read_flag(entry.get(name, True), name) for name in CLAIMS) and is_at_rest,
        code=str(entry.get("code") or (UNKNOWN_CODE if is_dft else functional or UNKNOWN_CODE)),
        functional=functional,
        is_dft=is_dft,
        free=Freedom.model_validate(free) if free is not None else None,
        functionals=[] if stated.functional else list(entry.get("functional_path") or []),
    )


def _read_content(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of the pair that the entry states."""
    kinds = {kind.value for kind in PairStart}
    content: dict[str, Any] = {key: entry.get(key) for key in ("model_id", "prediction_id", "source")}
    content["id"] = next((str(entry[key]) for key in ID_KEYS if entry.get(key) not in (None, "")), None)
    content["start_kind"] = PairStart(entry["start"]) if entry.get("start") in kinds else PairStart.RAW
    return content


def _read_trajectory(path: Path, stated: Stated) -> FilePair:
    """First and last frame of a trajectory."""
    pressure = read_pressure(stated.functional or "")
    try:
        with unpack_file(path, is_text=".traj" not in path.suffixes) as plain:
            found = read_trajectory(plain, stated.converged, pressure)
    except LeftOutError as error:
        message = f"{path}{str(error).removeprefix(str(plain))}"
        return FilePair(str(path), {}, reason=error.reason, message=message)
    entry = {"functional": found.functional, "n_ionic_steps": found.n_frames, "energy": found.energy}
    content = {"id": path.name.split(".")[0], "start_kind": PairStart.RAW}
    return FilePair(str(path), content, _make_result(found.initial, found.relaxed, entry, stated))


def _read_flag(value: Any, name: str) -> bool:
    """A truth value of a file, which may be a word.

    Raises
    ------
    ConfigError
        When it is neither.
    """
    words = dict.fromkeys(("true", "yes", "1"), True) | dict.fromkeys(("false", "no", "0", "none"), False)
    flag = words.get(str(value).strip().lower())
    if flag is None:
        raise ConfigError(f"{name} is {value!r}; write true or false")
    return flag
