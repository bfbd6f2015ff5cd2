"""Open the stores of pairs and of build records; save, find and stream pairs."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from maggma.core import Store
from maggma.utils import grouper

from e3relax_flows.core.logs import format_counts
from e3relax_flows.core.settings import E3RelaxSettings
from e3relax_flows.pairs.tasks import BuiltPair
from e3relax_flows.schemas.pairs import BuildRecord, LeftOut, PairDoc
from e3relax_flows.stores.opening import (
    IDS_PER_QUERY,
    dump_finite,
    find_by_id,
    open_store,
    replace_documents,
    validate_document,
    write_documents,
)
from e3relax_flows.stores.pool import shared

NEW, REPLACED, UNCHANGED = "new", "replaced", "unchanged"

PAIRS, RECORDS_ENDING = "pairs", "_records"
CURRENT: dict[str, Any] = {"superseded_by": None}  # criteria of the pairs that no other has replaced


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PairStores:
    """The stores of pairs, and of records of every calculation that was read; connected."""

    pairs: Store
    records: Store


@shared
@contextmanager
def open_pair_stores(settings: E3RelaxSettings) -> Iterator[PairStores]:
    """Both stores, connected and closed at the end; `settings` are read if None.

    Raises
    ------
    ConfigError
        When the store is described wrongly.
    StoreError
        When a store cannot be reached.

    Examples
    --------
    Pairs, and why other calculations gave none:

    >>> from e3relax_flows import load_settings, open_pair_stores
    >>> with open_pair_stores(load_settings()) as stores:
    ...     print(stores.pairs.count(), stores.records.count({"pair_id": None}))
    0 0
    """
    with open_pair_store(settings) as pairs, open_record_store(settings) as records:
        yield PairStores(pairs, records)


@shared
def open_pair_store(settings: E3RelaxSettings) -> Store:
    """The store of pairs, connected, with its indexes, closed at the end; errors are those of `open_pair_stores`.

    Examples
    --------
    >>> from e3relax_flows import load_settings, open_pair_store
    >>> with open_pair_store(load_settings()) as store:
    ...     print(store.count({"is_dft": True}))
    0
    """
    return open_store(settings, "PAIR_STORE", PAIRS, "pair_id", ["origin_id", "source", "functional"])


@shared
def open_record_store(settings: E3RelaxSettings) -> Store:
    """The store of build records, in a collection of its own, closed at the end."""
    return open_store(settings, "PAIR_STORE", PAIRS, "origin_id", ["pair_id", "reason"], RECORDS_ENDING)


def save_pairs(store: Store, docs: Sequence[PairDoc]) -> int:
    """Write the pairs that are new; return the number written. Stored pairs are not changed.

    Raises
    ------
    StoreError
        When a number is not finite, or the store fails.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from pymatgen.core import Lattice, Structure
    >>> from e3relax_flows import isolate_stores, iter_pairs, open_pair_store, save_pairs
    >>> from e3relax_flows.testing import make_pair
    >>> before, after = (Structure(Lattice.rhombohedral(a, 60), ["Cu"], [[0, 0, 0]]) for a in (2.7, 2.5))
    >>> settings = isolate_stores(Path(tempfile.mkdtemp()))
    >>> with open_pair_store(settings) as store:
    ...     print(save_pairs(store, [make_pair(before, after)]), [pair.formula for pair in iter_pairs(store)])
    1 ['Cu']
    """
    return write_documents(store, [dump_finite(doc) for doc in docs])


def supersede_pairs(store: Store, heirs: Mapping[str, str]) -> None:
    """Mark stored pairs as superseded: each by the pair, or the `left_out:REASON`, that `heirs` names."""
    for ids in grouper(list(heirs), IDS_PER_QUERY):
        raws = [{**raw, "superseded_by": heirs[raw["pair_id"]]} for raw in store.query({"pair_id": {"$in": ids}})]
        store.update([{key: value for key, value in raw.items() if key != "_id"} for raw in raws])


def find_pairs(store: Store, ids: Iterable[str]) -> dict[str, PairDoc]:
    """Those pairs of `ids` that are in the store, by id, in the order of `ids`; superseded ones too."""
    return find_by_id(store, list(ids), PairDoc, "pair_id", None)


def find_records(store: Store, origin_ids: Iterable[str]) -> dict[str, BuildRecord]:
    """Those records of `origin_ids` that are in the store, by id, in the order of `origin_ids`."""
    return find_by_id(store, list(origin_ids), BuildRecord, "origin_id", None)


def iter_pairs(store: Store, criteria: dict[str, Any] | None = None) -> Iterator[PairDoc]:
    """Pairs that match, one at a time; without criteria those that no other has replaced (`CURRENT`).

    Criteria are MongoDB's and are used unchanged: without `CURRENT` they also match superseded pairs.

    Raises
    ------
    StoreError
        When a stored document is not a pair of this release.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from e3relax_flows import CURRENT_PAIRS, isolate_stores, iter_pairs, open_pair_store, save_pairs
    >>> from e3relax_flows.testing import make_pairs
    >>> with open_pair_store(isolate_stores(Path(tempfile.mkdtemp()))) as store:
    ...     n_new = save_pairs(store, make_pairs(["Cu", "Ag"]))
    ...     print(n_new, [pair.formula for pair in iter_pairs(store, {**CURRENT_PAIRS, "formula": "Cu"})])
    2 ['Cu']
    """
    for raw in store.query(CURRENT if criteria is None else criteria):
        yield validate_document(raw, PairDoc, store)


@dataclass
class _Plan:
    """Documents to write for some calculations."""

    new: dict[str, PairDoc] = field(default_factory=dict)
    rewritten: dict[str, PairDoc] = field(default_factory=dict)
    records: dict[str, BuildRecord] = field(default_factory=dict)


class PairWriter:
    """Writes pairs and records, and counts.

    A calculation that gives another pair than before replaces it: the old one stays, marked as superseded, because
    datasets name it. The same pair from two calculations is kept once. Unchanged documents are not written.

    Parameters
    ----------
    stores
        Connected.
    is_dry
        Whether to count only.
    """

    def __init__(self, stores: PairStores, is_dry: bool = False) -> None:
        self.stores = stores
        self.is_dry = is_dry
        self.counts: Counter[str] = Counter()
        self._planned: dict[str, PairDoc] = {}  # in a dry run, what would be in the store

    def write(self, built: Sequence[BuiltPair]) -> None:
        """Write pairs and records of some calculations.

        Raises
        ------
        StoreError
            When a store fails; unrecorded calculations are built again the next time.
        """
        known = find_records(self.stores.records, [item.record.origin_id for item in built])
        wanted = [item.pair.pair_id for item in built if item.pair]
        before = [record.pair_id for record in known.values() if record.pair_id]
        pairs = self._planned | find_pairs(self.stores.pairs, [*wanted, *before])
        plan = _Plan()
        for item in built:
            self._decide(item, known.get(item.record.origin_id), pairs, plan)
        if self.is_dry:
            self._planned |= {key: _shorten(pair) for key, pair in plan.new.items()}
            return
        save_pairs(self.stores.pairs, list(plan.new.values()))
        replace_documents(self.stores.pairs, list(plan.rewritten.values()))
        replace_documents(self.stores.records, list(plan.records.values()))
        left_out = format_counts(Counter(str(item.record.reason) for item in built if item.record.reason))
        logger.info(
            "pairs: %d new, %d rewritten of %d calculations; left out: %s",
            len(plan.new), len(plan.rewritten), len(built), left_out,
        )  # fmt: skip

    def _decide(self, item: BuiltPair, old: BuildRecord | None, pairs: dict[str, PairDoc], plan: _Plan) -> None:
        record, pair = item.record, item.pair
        if pair is not None:
            there = pairs.get(pair.pair_id)
            if there is not None and there.origin_id != pair.origin_id and there.superseded_by is None:
                record, pair = _describe_duplicate(record, there), None
            elif there is None:
                plan.new[pair.pair_id] = pairs[pair.pair_id] = pair
            elif there.superseded_by is not None or there.source != pair.source or there.origin_id != pair.origin_id:
                plan.rewritten[pair.pair_id] = pairs[pair.pair_id] = pair
        previous = old.pair_id if old is not None else None
        if previous is not None and previous != record.pair_id and previous in pairs:
            heir = record.pair_id or f"left_out:{record.reason}"
            outdated = pairs[previous]
            if outdated.origin_id == record.origin_id and outdated.superseded_by != heir:
                outdated = outdated.model_copy(update={"superseded_by": heir})
                plan.rewritten[previous] = pairs[previous] = outdated
        if old is None or old.model_dump(exclude={"last_updated"}) != record.model_dump(exclude={"last_updated"}):
            plan.records[record.origin_id] = record
        if old is not None and (old.pair_id, old.reason) == (record.pair_id, record.reason):
            self.counts[UNCHANGED] += 1
        elif record.reason is not None:
            self.counts[record.reason] += 1
        else:
            self.counts[REPLACED if previous is not None and previous != record.pair_id else NEW] += 1


def _describe_duplicate(record: BuildRecord, there: PairDoc) -> BuildRecord:
    message = f"the same as pair {there.pair_id} of {there.origin_id}"
    return record.model_copy(update={"pair_id": None, "reason": LeftOut.DUPLICATE, "message": message})


def _shorten(pair: PairDoc) -> PairDoc:
    """The fields of a pair that the decision needs."""
    fields = {"pair_id", "origin_id", "source", "superseded_by"}
    return PairDoc.model_construct(**pair.model_dump(include=fields))
