"""A list of candidates without duplicates, kept on disk, so that 100,000 of them need little memory."""

from __future__ import annotations

import json
import sqlite3
import tempfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from monty.json import jsanitize
from pymatgen.core import Structure

from e3relax_flows.candidates.duplicates import DUPLICATE_VOLUME, CellMatcher, is_comparable, reduce_cell
from e3relax_flows.candidates.reading import ReadItem
from e3relax_flows.core.errors import ContentError, StoreError
from e3relax_flows.core.ids import identify_structure

TABLES = """
CREATE TABLE candidates (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL, structure_id TEXT NOT NULL UNIQUE, formula TEXT NOT NULL,
    structure BLOB NOT NULL, is_comparable INTEGER NOT NULL, score REAL, same_as INTEGER
);
CREATE TABLE duplicates (id TEXT NOT NULL, kept TEXT NOT NULL, how TEXT NOT NULL);
CREATE TABLE cells (number INTEGER PRIMARY KEY, formula TEXT NOT NULL, volume REAL NOT NULL, cell BLOB NOT NULL);
CREATE INDEX by_volume ON cells (formula, volume);
"""
COMMIT_EVERY = 1000
CACHED_CELLS = 500
LARGEST_STRUCTURE = 64 * 2**20  # bytes of JSON; 100,000 atoms take half of it
PAGE = 200  # candidates read at once

Score = Callable[[str, Structure], float | None]


class Candidate(NamedTuple):
    """One candidate of a list."""

    id: str
    structure_id: str
    structure: Structure
    score: float | None  # the smaller, the more promising; None: not known


class PackedCandidate(NamedTuple):
    """One candidate of a list, with its structure in packed form."""

    id: str
    structure_id: str
    formula: str
    packed: bytes  # see `unpack_structure`


class Duplicate(NamedTuple):
    """A candidate that was left out, and the equal one that was kept."""

    id: str
    kept: str
    how: str  # "id": equal as written; "structure": equal by StructureMatcher


class CandidateList:
    """Candidates that are added one by one and returned without duplicates, ranked if they were scored.

    Everything is in an SQLite file that is removed at the end: memory holds some hundred structures at most,
    for any number of candidates. Use it in a `with`.

    Parameters
    ----------
    folder
        Where the file is made; none: the system's folder of temporary files. It takes some kB per candidate.

    Examples
    --------
    Twice the same crystal:

    >>> from pymatgen.core import Lattice, Structure
    >>> from e3relax_flows import CandidateList, ReadItem
    >>> copper = Structure(Lattice.rhombohedral(2.7, 60), ["Cu"], [[0, 0, 0]])
    >>> with CandidateList() as candidates:
    ...     candidates.add([ReadItem("one", copper, None), ReadItem("other", copper * (2, 1, 1), None)])
    ...     print(candidates.deduplicate(), [candidate.id for candidate in candidates.iterate()])
    1 ['one']
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.errors: list[tuple[str, str]] = []
        self.notes: list[tuple[str, str]] = []  # warnings of parsers, by id
        self._folder = folder
        self._n = 0

    def __enter__(self) -> Self:
        self._place = tempfile.TemporaryDirectory(prefix="e3relax_candidates_", dir=self._folder)
        self._file = sqlite3.connect(Path(self._place.name) / "candidates.sqlite")
        # the file is temporary and needs no safety
        self._file.executescript("PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA cache_size=-16000;" + TABLES)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._place.cleanup()

    def add(self, items: Iterable[ReadItem]) -> None:
        """Add candidates, equal ones once; unreadable ones and those without id are listed in `errors`."""
        for item in items:
            if item.structure is None or len(item.structure) == 0:
                self.errors.append((item.id, item.error or "the structure has no atoms; leave it out"))
                continue
            try:
                structure_id = identify_structure(item.structure)
            except ContentError as error:
                self.errors.append((item.id, str(error)))
                continue
            if item.note is not None:
                self.notes.append((item.id, item.note))
            row = (self._n, item.id, structure_id, item.structure.composition.reduced_formula)
            inserted = self._file.execute(
                "INSERT OR IGNORE INTO candidates VALUES (?, ?, ?, ?, ?, ?, NULL, NULL)",
                (*row, pack_structure(item.structure), is_comparable(item.structure)),
            )
            if inserted.rowcount:
                self._n += 1
            else:
                self._note(item.id, "structure_id = ?", structure_id, "id")
            if self._n % COMMIT_EVERY == 0:
                self._file.commit()
        self._file.commit()

    def deduplicate(self) -> int:
        """Compare candidates of equal composition by StructureMatcher and keep the first of equal ones.

        Returns
        -------
        n_duplicates
            How many were found.
        """
        matcher, unpack, n_found = CellMatcher(), lru_cache(CACHED_CELLS)(self._read_cell), 0
        many = (
            "SELECT formula FROM candidates WHERE is_comparable AND same_as IS NULL GROUP BY formula "
            "HAVING COUNT(*) > 1"
        )
        for (formula,) in self._file.execute(many).fetchall():
            self._file.execute("DELETE FROM cells")
            unpack.cache_clear()
            where = "formula = ? AND is_comparable AND same_as IS NULL ORDER BY number"
            numbers = self._file.execute(f"SELECT number FROM candidates WHERE {where}", (formula,)).fetchall()
            for (number,) in numbers:
                cell = reduce_cell(self._read(number))
                same = self._find_same(cell, matcher, unpack)
                if same is None:
                    row = (number, _name(cell), cell.volume, pack_structure(cell))
                    self._file.execute("INSERT INTO cells VALUES (?, ?, ?, ?)", row)
                else:
                    n_found += 1
                    self._file.execute("UPDATE candidates SET same_as = ? WHERE number = ?", (same, number))
                    (id,) = self._file.execute("SELECT id FROM candidates WHERE number = ?", (number,)).fetchone()
                    self._note(id, "number = ?", same, "structure")
        self._file.execute("DELETE FROM cells")
        self._file.commit()
        return n_found

    def score(self, function: Score) -> int:
        """Score every kept candidate (a smaller score is more promising); return the number that have a score.

        Errors of `function` are raised: an incomplete ranking would be misleading.
        """
        n_scored = 0
        for number, candidate in self._iterate("number"):
            value = function(candidate.id, candidate.structure)
            value = None if value is None or value != value else float(value)
            n_scored += value is not None
            self._file.execute("UPDATE candidates SET score = ? WHERE number = ?", (value, number))
        self._file.commit()
        return n_scored

    def iterate(self, limit: int | None = None) -> Iterator[Candidate]:
        """Candidates without duplicates, those with the smallest score first, then those without one in their order."""
        for n_given, (_, candidate) in enumerate(self._iterate("score IS NULL, score, number")):
            if limit is not None and n_given >= limit:
                return
            yield candidate

    def iterate_packed(self) -> Iterator[PackedCandidate]:
        """The same as `iterate`, with packed structures."""
        order = "SELECT id, structure_id, formula, structure FROM candidates WHERE same_as IS NULL "
        for row in self._file.execute(order + "ORDER BY score IS NULL, score, number"):
            yield PackedCandidate(*row)

    def iterate_duplicates(self) -> Iterator[Duplicate]:
        """The candidates that were left out, and the kept ones that they equal."""
        for row in self._file.execute("SELECT id, kept, how FROM duplicates ORDER BY rowid"):
            yield Duplicate(*row)

    def count(self) -> dict[str, int]:
        """Candidates read, unreadable, equal by id and by structure, and kept."""
        found = Counter(dict(self._file.execute("SELECT how, COUNT(*) FROM duplicates GROUP BY how").fetchall()))
        return {
            "read": self._n + found["id"] + len(self.errors),
            "unreadable": len(self.errors),
            "equal_ids": found["id"],
            "equal_structures": found["structure"],
            "candidates": self._n - found["structure"],
        }

    def _find_same(self, cell: Structure, matcher: CellMatcher, unpack: Callable[[int], Structure]) -> int | None:
        """Number of the first kept cell that is the same crystal; only those of similar volume are compared."""
        slack = 1 + DUPLICATE_VOLUME
        near = self._file.execute(
            "SELECT number FROM cells WHERE formula = ? AND volume BETWEEN ? AND ? ORDER BY number",
            (_name(cell), cell.volume / slack, cell.volume * slack),
        ).fetchall()
        return next((number for (number,) in near if matcher.match(unpack(number), cell)), None)

    def _note(self, id: str, where: str, value: str | int, how: str) -> None:
        """Record a duplicate of the candidate that `where` selects."""
        (kept,) = self._file.execute(f"SELECT id FROM candidates WHERE {where}", (value,)).fetchone()
        self._file.execute("INSERT INTO duplicates VALUES (?, ?, ?)", (id, kept, how))

    def _read(self, number: int) -> Structure:
        row = self._file.execute("SELECT structure FROM candidates WHERE number = ?", (number,)).fetchone()
        return unpack_structure(row[0])

    def _read_cell(self, number: int) -> Structure:
        row = self._file.execute("SELECT cell FROM cells WHERE number = ?", (number,)).fetchone()
        return unpack_structure(row[0])

    def _iterate(self, order: str) -> Iterator[tuple[int, Candidate]]:
        """Kept candidates with their numbers, whose structures are read as they are reached."""
        numbers = self._file.execute(f"SELECT number FROM candidates WHERE same_as IS NULL ORDER BY {order}")
        columns = "number, id, structure_id, structure, score"
        while page := [str(number) for (number,) in numbers.fetchmany(PAGE)]:
            chosen = f"SELECT {columns} FROM candidates WHERE number IN ({','.join(page)})"
            rows = {str(row[0]): row for row in self._file.execute(chosen).fetchall()}
            for number, id, structure_id, packed, score in (rows[name] for name in page):
                yield number, Candidate(id, structure_id, unpack_structure(packed), score)


def _name(cell: Structure) -> str:
    return f"{cell.formula} {cell.charge:g}"


def pack_structure(structure: Structure) -> bytes:
    """A structure as few bytes, which `unpack_structure` reads."""
    # only types that json does not know are sanitized: sanitizing everything would take longer than the rest
    text = json.dumps(structure.as_dict(), default=lambda value: jsanitize(value, recursive_msonable=True))
    return zlib.compress(text.encode(), level=1)


def unpack_structure(packed: bytes) -> Structure:
    """The structure in a `PackedCandidate`.

    Raises
    ------
    StoreError
        When it is damaged, or would take more than `LARGEST_STRUCTURE` bytes.
    """
    box = zlib.decompressobj()
    try:
        text = box.decompress(packed, LARGEST_STRUCTURE)
    except zlib.error as error:
        raise StoreError(f"a packed structure is damaged ({error}); register its screen again") from error
    if not box.eof:
        raise StoreError(
            f"a packed structure is incomplete, or takes more than {LARGEST_STRUCTURE >> 20} MB; "
            "register its screen again"
        )
    return Structure.from_dict(json.loads(text))
