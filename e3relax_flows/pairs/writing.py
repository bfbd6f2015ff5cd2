"""Write what was built, in an order in which a failure in between costs nothing: pairs first, records last."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from e3relax_flows.pairs.store import (
    PairStores,
    find_pairs,
    find_records,
    replace_pairs,
    save_pairs,
    save_records,
)
from e3relax_flows.pairs.tasks import BuiltPair
from e3relax_flows.schemas.pairs import BuildRecord, LeftOut, PairDoc

NEW, REPLACED, UNCHANGED = "new", "replaced", "unchanged"


@dataclass
class _Plan:
    """What is to be written for some calculations."""

    new: dict[str, PairDoc] = field(default_factory=dict)
    rewritten: dict[str, PairDoc] = field(default_factory=dict)
    records: dict[str, BuildRecord] = field(default_factory=dict)


class PairWriter:
    """Writes pairs and records, and counts.

    A calculation that gives another pair than before replaces it: the old one stays, marked as superseded, because
    datasets name it. The same pair from two calculations is kept once. What has not changed is not written.

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
        """Write what became of some calculations.

        Raises
        ------
        StoreError
            When a store fails; what was not recorded is built again the next time.
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
        replace_pairs(self.stores.pairs, list(plan.rewritten.values()))
        save_records(self.stores.records, list(plan.records.values()))

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
    """What deciding needs of a pair."""
    fields = {"pair_id", "origin_id", "source", "superseded_by"}
    return PairDoc.model_construct(**pair.model_dump(include=fields))
