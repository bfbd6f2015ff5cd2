"""Store holdouts and datasets, which list ids of pairs: written once, never changed."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from maggma.core import Store
from pydantic import BaseModel

from e3relax_flows.core.errors import ConfigError
from e3relax_flows.core.settings import E3RelaxSettings
from e3relax_flows.pairs.store import PAIRS
from e3relax_flows.schemas.datasets import DatasetDoc, HoldoutDoc
from e3relax_flows.stores.opening import (
    describe_store,
    dump_document,
    open_store,
    validate_document,
    write_documents,
)
from e3relax_flows.stores.pool import shared

HOLDOUTS_ENDING, DATASETS_ENDING = "_holdouts", "_datasets"
HOLDOUT_KEY, DATASET_KEY = "name", "dataset_id"

Doc = TypeVar("Doc", bound=BaseModel)


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DatasetStores:
    """Holdouts, whose key is their name, and datasets, whose key is their id; connected."""

    holdouts: Store
    datasets: Store


@shared
@contextmanager
def open_dataset_stores(settings: E3RelaxSettings) -> Iterator[DatasetStores]:
    """Both stores, at PAIR_STORE; connected, closed at the end. `settings` are read if None.

    Raises
    ------
    ConfigError
        When the store is described wrongly.
    StoreError
        When a store cannot be reached.

    Examples
    --------
    >>> from e3relax_flows import load_settings, open_dataset_stores
    >>> with open_dataset_stores(load_settings()) as stores:
    ...     print(stores.holdouts.count(), stores.datasets.count())
    0 0
    """
    with (
        open_store(settings, "PAIR_STORE", PAIRS, HOLDOUT_KEY, ["holdout_id"], HOLDOUTS_ENDING) as holdouts,
        open_store(settings, "PAIR_STORE", PAIRS, DATASET_KEY, ["created_at"], DATASETS_ENDING) as datasets,
    ):
        yield DatasetStores(holdouts, datasets)


def save_holdout(stores: DatasetStores, doc: HoldoutDoc) -> HoldoutDoc:
    """Store a holdout and return the stored one; freezing the same holdout again returns the first one.

    Raises
    ------
    ConfigError
        When another holdout has the name.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from pymatgen.core import Lattice, Structure
    >>> from e3relax_flows import PairFilter, freeze_holdout, isolate_stores, list_holdouts
    >>> from e3relax_flows import open_dataset_stores, save_holdout
    >>> from e3relax_flows.testing import make_pair
    >>> before, after = (Structure(Lattice.rhombohedral(a, 60), ["Cu"], [[0, 0, 0]]) for a in (2.7, 2.5))
    >>> wanted = PairFilter(dft_only=False)
    >>> held = freeze_holdout([make_pair(before, after)], "mine", "chemical_system", ["Cu"], wanted, min_pairs=1)
    >>> settings = isolate_stores(Path(tempfile.mkdtemp()))
    >>> with open_dataset_stores(settings) as stores:
    ...     print(save_holdout(stores, held).name, len(list_holdouts(stores)))
    mine 1
    """
    if write_documents(stores.holdouts, [dump_document(doc)]):
        logger.info(
            "holdout %s: frozen as %s, %d pairs in %d groups",
            doc.holdout_id,
            doc.name,
            len(doc.pair_ids),
            len(doc.groups),
        )
        return doc
    return find_same_holdout(stores, doc) or doc


def find_same_holdout(stores: DatasetStores, doc: HoldoutDoc) -> HoldoutDoc | None:
    """The stored holdout of this name; None if there is none.

    Raises
    ------
    ConfigError
        When the stored one has other pairs or groups.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from pymatgen.core import Lattice, Structure
    >>> from e3relax_flows import PairFilter, find_same_holdout, freeze_holdout, isolate_stores
    >>> from e3relax_flows import open_dataset_stores, save_holdout
    >>> from e3relax_flows.testing import make_pair
    >>> before, after = (Structure(Lattice.rhombohedral(a, 60), ["Cu"], [[0, 0, 0]]) for a in (2.7, 2.5))
    >>> wanted = PairFilter(dft_only=False)
    >>> held = freeze_holdout([make_pair(before, after)], "mine", "chemical_system", ["Cu"], wanted, min_pairs=1)
    >>> settings = isolate_stores(Path(tempfile.mkdtemp()))
    >>> with open_dataset_stores(settings) as stores:
    ...     print(find_same_holdout(stores, held))
    ...     _ = save_holdout(stores, held)
    ...     print(find_same_holdout(stores, held).name)
    None
    mine
    """
    raw = stores.holdouts.query_one({HOLDOUT_KEY: doc.name})
    if raw is None:
        return None
    kept = validate_document(raw, HoldoutDoc, stores.holdouts)
    if any(getattr(kept, field) != getattr(doc, field) for field in ("holdout_id", "group_by", "groups")):
        raise ConfigError(
            f"holdout {doc.name!r} was frozen on {kept.frozen_at:%Y-%m-%d} with {len(kept.pair_ids)} pairs in "
            f"{len(kept.groups)} groups (id {kept.holdout_id}); the requested one has {len(doc.pair_ids)} in "
            f"{len(doc.groups)} (id {doc.holdout_id}). A holdout never changes: choose another name"
        )
    return kept


def find_holdout(stores: DatasetStores, name: str) -> HoldoutDoc:
    """The holdout of a name or an id.

    Raises
    ------
    ConfigError
        When there is none.
    """
    for field in (HOLDOUT_KEY, "holdout_id"):
        if (raw := stores.holdouts.query_one({field: name})) is not None:
            return validate_document(raw, HoldoutDoc, stores.holdouts)
    names = [doc.name for doc in list_holdouts(stores)]
    raise ConfigError(
        f"holdout {name!r} is not in {describe_store(stores.holdouts)} ({len(names)} holdouts: "
        f"{', '.join(names[:5]) or 'none'}); run `e3relax data holdouts`, or freeze it with `e3relax data freeze`"
    )


def list_holdouts(stores: DatasetStores) -> list[HoldoutDoc]:
    """All holdouts, the oldest first.

    Examples
    --------
    >>> from e3relax_flows import list_holdouts, load_settings, open_dataset_stores
    >>> with open_dataset_stores(load_settings()) as stores:
    ...     print([held.name for held in list_holdouts(stores)])
    []
    """
    docs = [validate_document(raw, HoldoutDoc, stores.holdouts) for raw in stores.holdouts.query({})]
    return sorted(docs, key=lambda doc: (doc.frozen_at, doc.name))


def save_dataset(stores: DatasetStores, doc: DatasetDoc) -> DatasetDoc:
    """Store a dataset and return the stored one; a dataset with a known id is the first one."""
    if write_documents(stores.datasets, [dump_document(doc)]):
        logger.info(
            "dataset %s: saved, %d pairs to train on, %d of validation", doc.dataset_id, len(doc.train), len(doc.val)
        )
        return doc
    return find_dataset(stores, doc.dataset_id)


def find_dataset(stores: DatasetStores, dataset_id: str) -> DatasetDoc:
    """The dataset of an id.

    Raises
    ------
    ConfigError
        When there is none.
    """
    raw = stores.datasets.query_one({DATASET_KEY: dataset_id})
    if raw is None:
        raise ConfigError(
            f"dataset {dataset_id!r} is not in {describe_store(stores.datasets)}; a retraining keeps its dataset "
            "there: check PAIR_STORE and DATA_DIR"
        )
    return validate_document(raw, DatasetDoc, stores.datasets)
