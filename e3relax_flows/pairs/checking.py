"""Find pairs of a store that would not be made today, with the reason, and mark them as left out."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from maggma.core import Store
from pymatgen.core import Structure

from e3relax_flows.core.finite import find_not_finite
from e3relax_flows.core.ids import hash_content
from e3relax_flows.pairs.files import FilePair
from e3relax_flows.pairs.store import (
    CURRENT,
    PairStores,
    find_pairs,
    find_records,
    save_pairs,
    supersede_pairs,
)
from e3relax_flows.pairs.tasks import BuiltPair
from e3relax_flows.pairs.units import FORMAT
from e3relax_flows.schemas.pairs import BuildRecord, LeftOut, PairDoc, identify_pair
from e3relax_flows.stores.opening import replace_documents

# reasons that may mean another store or a lost document rather than a wrong pair
NOT_CHECKED = (LeftOut.START_UNKNOWN, LeftOut.FAILED)
SAME_PLACE = 1e-4  # Å and fractions; beyond it two structures differ by more than the rounding of another release
# an entry of a file: its path and its position
FILE_ORIGIN = re.compile(r"(/.*?)(?: (?:line|entry) \d+| key '.*')?", re.DOTALL)
INDEX_FIELDS = (
    *("pair_id", "origin_id", "functional", "functional_path", "code", "is_dft", "source"),
    *("job_uuids", "hosts"),
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Finding:
    """A pair that would not be made today.

    Parameters
    ----------
    pair_id, origin_id, source
        Of the pair.
    reason, message
        The reason, as a code and in words.
    built
        Result of its calculation today; None if the stored pair itself is wrong.
    """

    pair_id: str
    origin_id: str
    source: str
    reason: LeftOut
    message: str
    built: BuiltPair | None = None


@dataclass
class PairCheck:
    """Check the current pairs of a store by the rules of today, and against pairs built from their sources today.

    Parameters
    ----------
    stores
        Connected.
    """

    stores: PairStores
    findings: dict[str, Finding] = field(default_factory=dict)
    not_checked: Counter[str] = field(default_factory=Counter)
    _by_origin: dict[str, dict[str, Any]] = field(default_factory=dict)
    _seen: set[str] = field(default_factory=set)

    @property
    def n_pairs(self) -> int:
        """Current pairs."""
        return len(self._by_origin)

    @property
    def n_compared(self) -> int:
        """Pairs whose calculations were read again."""
        return len(self._seen)

    @property
    def n_not_found(self) -> int:
        """Pairs whose calculations are in none of the stores and files."""
        return self.n_pairs - len(self._seen) - sum(self.not_checked.values())

    def read_stored(self) -> Iterator[str]:
        """Read and check every current pair by itself; yields the ids."""
        for raw in self.stores.pairs.query(CURRENT):
            self._by_origin[raw["origin_id"]] = {name: raw.get(name) for name in INDEX_FIELDS}
            if (found := explain_stored(raw)) is not None:
                self._note(raw["origin_id"], *found)
            yield raw["pair_id"]

    def list_folders(self) -> list[Path]:
        """Folders that were imported and still exist."""
        roots = {Path(raw["hosts"][-1]) for raw in self._by_origin.values() if _is_folder(raw)}
        return sorted(root for root in roots if root.is_dir())

    def list_files(self) -> list[Path]:
        """Files that were imported and still exist."""
        matches = (FILE_ORIGIN.fullmatch(origin) for origin, raw in self._by_origin.items() if not _is_folder(raw))
        paths = {Path(match[1]) for match in matches if match}
        return sorted(path for path in paths if path.is_file())

    def restate(self, item: FilePair) -> FilePair | None:
        """An entry of a file as imported, with the functional stated then; None if it gave no pair."""
        stored = self._by_origin.get(item.location)
        if stored is None or item.result is None:
            return item if stored is not None else None
        stated = {"functional": stored["functional"], "functionals": stored["functional_path"] or []}
        stated |= {"code": stored["code"], "is_dft": stored["is_dft"], "unnamed": None}
        return FilePair(item.location, item.content, item.result.model_copy(update=stated))

    def compare(self, built: BuiltPair) -> None:
        """Compare the pair of a calculation today with its stored pair."""
        record, pair = built.record, built.pair
        for uuid in record.job_uuids:
            if uuid != record.origin_id and uuid in self._by_origin:
                self._compare_part(uuid, built)
        stored = self._by_origin.get(record.origin_id)
        if stored is None:
            return
        if record.reason in NOT_CHECKED:
            self.not_checked[str(record.reason)] += 1
            return
        self._see(record.origin_id)
        wrong = self.findings.get(stored["pair_id"])
        if wrong is not None and pair is not None:  # the pair of today replaces it
            self.findings[stored["pair_id"]] = replace(wrong, built=built)
        elif pair is None:
            self._note(record.origin_id, record.reason or LeftOut.UNREADABLE, record.message or "", built)
        elif pair.pair_id != stored["pair_id"] and (words := self._explain_difference(stored, pair)):
            self._note(record.origin_id, LeftOut.RELABELLED, words, built)

    def apply(self) -> None:
        """Mark the findings as left out; one with another functional is replaced by the pair of today.

        Pairs are marked, not removed, since datasets name them.

        Raises
        ------
        StoreError
            When a store fails; a repeated call continues.
        """
        new: list[PairDoc] = []
        corrected: list[PairDoc] = []
        heirs: dict[str, str] = {}
        records: list[BuildRecord] = []
        known = find_records(self.stores.records, [finding.origin_id for finding in self.findings.values()])
        for finding in self.findings.values():
            pair = finding.built.pair if finding.built is not None else None
            if pair is None:
                heirs[finding.pair_id] = f"left_out:{finding.reason.value}"
            elif pair.pair_id == finding.pair_id:  # only fields besides its content were wrong
                corrected.append(pair)
            else:
                new.append(pair)
                heirs[finding.pair_id] = pair.pair_id
            records.append(_make_record(finding, known.get(finding.origin_id)))
        save_pairs(self.stores.pairs, new)
        replace_documents(self.stores.pairs, corrected)
        supersede_pairs(self.stores.pairs, heirs)
        replace_documents(self.stores.records, records)
        counts = len(new), len(corrected), len(heirs)
        logger.info("pairs: %d new, %d corrected, %d superseded by a check of %d records", *counts, len(records))

    def _compare_part(self, uuid: str, built: BuiltPair) -> None:
        """Check a calculation that has a pair of its own, and is a part of another one today."""
        record, pair = built.record, built.pair
        if pair is None and record.reason in NOT_CHECKED:
            return
        if pair is None:
            reason, words = record.reason or LeftOut.UNREADABLE, record.message or ""
        elif uuid in pair.job_uuids:
            reason, words = LeftOut.DUPLICATE, f"a part of calculation {record.origin_id}"
        else:
            reason, words = LeftOut.NOT_A_RELAXATION, "it moves nothing towards a minimum"
        if self._by_origin[uuid]["pair_id"] != (pair.pair_id if pair is not None else None):
            self._note(uuid, reason, words)
        self._see(uuid)

    def _see(self, origin_id: str) -> None:
        self._seen.add(origin_id)

    def _note(self, origin_id: str, reason: LeftOut, message: str, built: BuiltPair | None = None) -> None:
        stored = self._by_origin[origin_id]
        earlier = self.findings.get(stored["pair_id"])
        if earlier is None or earlier.built is None:
            finding = Finding(stored["pair_id"], origin_id, stored["source"], reason, message, built)
            self.findings[stored["pair_id"]] = finding

    def _explain_difference(self, stored: dict[str, Any], pair: PairDoc) -> str | None:
        """The difference today; None if only the spelling of a name or a rounding differs."""
        before = find_pairs(self.stores.pairs, [stored["pair_id"]])[stored["pair_id"]]
        if identify_pair(before) == pair.pair_id:
            return None
        for name in ("functional", "code", "free"):
            then, today = getattr(before, name), getattr(pair, name)
            if then != today:
                return f"{name}: {today} today, {then} in the store"
        same = all(_is_same(getattr(before, side), getattr(pair, side)) for side in ("initial", "relaxed"))
        return None if same else "its structures differ today"


def explain_stored(raw: dict[str, Any]) -> tuple[LeftOut, str] | None:
    """Why a stored pair would not be made today, by its content; None if it could be."""
    if (found := find_not_finite(raw)) is not None:
        return LeftOut.UNREADABLE, f"a number is not finite: {found}"
    try:
        pair = PairDoc.model_validate({key: value for key, value in raw.items() if key != "_id"})
    except Exception as error:  # the boundary between pairs
        return LeftOut.UNREADABLE, f"it cannot be read ({type(error).__name__}: {error})"
    initial, relaxed = pair.initial, pair.relaxed
    if initial.species != relaxed.species:
        return LeftOut.SITES_DIFFER, f"it begins with {initial.formula} and ends with {relaxed.formula}"
    if np.linalg.det(initial.lattice.matrix) * np.linalg.det(relaxed.lattice.matrix) <= 0:
        return LeftOut.SITES_DIFFER, "its lattices have different handedness"
    return None


def _is_folder(raw: dict[str, Any]) -> bool:
    """Whether a pair comes from folders of runs: its jobs and flow are their paths."""
    return bool(raw["hosts"]) and raw["origin_id"] in (raw["job_uuids"] or ()) and str(raw["origin_id"]).startswith("/")


def _is_same(first: Structure, second: Structure) -> bool:
    return len(first) == len(second) and all(
        np.allclose(a, b, rtol=0, atol=SAME_PLACE)
        for a, b in ((first.lattice.matrix, second.lattice.matrix), (first.frac_coords, second.frac_coords))
    )


def _make_record(finding: Finding, known: BuildRecord | None) -> BuildRecord:
    """The record of a calculation after its finding."""
    if finding.built is not None:
        return finding.built.record
    record = known or BuildRecord(
        origin_id=finding.origin_id,
        fingerprint=hash_content([FORMAT, finding.origin_id]),
        source=finding.source,
    )
    return record.model_copy(update={"pair_id": None, "reason": finding.reason, "message": finding.message})


def list_holders(store: Store, key: str, fields: Iterable[str], pair_ids: set[str]) -> dict[str, int]:
    """Documents that list some of these pairs in their fields, by their key, with how many."""
    wanted, counts = list(fields), {}
    for raw in store.query({}, [key, *wanted]):
        n_listed = sum(id in pair_ids for name in wanted for id in raw.get(name) or ())
        if n_listed:
            counts[str(raw[key])] = n_listed
    return counts
