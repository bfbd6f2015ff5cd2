"""Open the stores of pairs and of the records of what became of every calculation; save, find and stream pairs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from maggma.core import Store
from pymongo.errors import PyMongoError

from e3relax_flows.core.errors import StoreError
from e3relax_flows.core.settings import E3RelaxSettings, load_settings
from e3relax_flows.schemas.pairs import BuildRecord, PairDoc
from e3relax_flows.stores.opening import (
    build_store,
    connect_store,
    describe_store,
    dump_document,
    find_by_id,
    open_beside,
    validate_document,
    write_documents,
)

PAIRS, RECORDS_ENDING = "pairs", "_records"
CURRENT: dict[str, Any] = {"superseded_by": None}  # criteria of the pairs that no other has replaced


@dataclass(frozen=True)
class PairStores:
    """The pairs, and what became of every calculation that was looked at; connected."""

    pairs: Store
    records: Store


@contextmanager
def open_pair_stores(settings: E3RelaxSettings | None = None) -> Iterator[PairStores]:
    """Both stores, connected and closed at the end; `settings` are read anew when None.

    Raises
    ------
    ConfigError
        When the store is described wrongly.
    StoreError
        When a store cannot be reached.
    """
    settings = settings or load_settings()
    with open_pair_store(settings) as pairs, open_record_store(settings) as records:
        yield PairStores(pairs, records)


def open_pair_store(settings: E3RelaxSettings) -> Store:
    """The store of pairs, connected, with its indexes; use it in a `with` or close it."""
    store = build_store(settings.PAIR_STORE, settings, PAIRS, "pair_id")
    return connect_store(store, ["origin_id", "source", "functional"], "PAIR_STORE")


def open_record_store(settings: E3RelaxSettings) -> Store:
    """The store of build records, a collection beside that of the pairs; use it in a `with` or close it."""
    return open_beside(settings, "PAIR_STORE", PAIRS, RECORDS_ENDING, "origin_id", ["pair_id", "reason"])


def save_pairs(store: Store, docs: Sequence[PairDoc]) -> int:
    """Write the pairs that are not there yet; the number written. An id that exists is left as it is."""
    return write_documents(store, [dump_document(doc) for doc in docs])


def replace_pairs(store: Store, docs: Sequence[PairDoc]) -> None:
    """Write pairs in place of those of the same ids: one is superseded, or another's again."""
    _update(store, [dump_document(doc) for doc in docs])


def save_records(store: Store, docs: Sequence[BuildRecord]) -> None:
    """Write records, each in place of the one of the same calculation."""
    _update(store, [dump_document(doc) for doc in docs])


def find_pairs(store: Store, ids: Iterable[str]) -> dict[str, PairDoc]:
    """Those pairs of `ids` that are in the store, by id, in the order of `ids`; superseded ones too."""
    return find_by_id(store, list(ids), PairDoc, "pair_id", None)


def find_records(store: Store, origin_ids: Iterable[str]) -> dict[str, BuildRecord]:
    """Those records of `origin_ids` that are in the store, by id, in the order of `origin_ids`."""
    return find_by_id(store, list(origin_ids), BuildRecord, "origin_id", None)


def iter_pairs(store: Store, criteria: dict[str, Any] | None = None) -> Iterator[PairDoc]:
    """Pairs that match, one at a time; without criteria those that no other has replaced (`CURRENT`).

    Criteria are MongoDB's and are taken as they are: add `CURRENT` to them, or get superseded pairs as well.
    """
    for raw in store.query(CURRENT if criteria is None else criteria):
        yield validate_document(raw, PairDoc, store)


def _update(store: Store, docs: list[dict[str, Any]]) -> None:
    if not docs:
        return
    try:
        store.update(docs)
    except PyMongoError as error:
        raise StoreError(f"{describe_store(store)}: {error}; nothing or a part was written, run again") from error
