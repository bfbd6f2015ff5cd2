"""Open the stores of predictions, outcomes and jobs by the settings, and keep documents in them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import wraps
from typing import Any, TypeVar

import maggma.stores
from jobflow import JobStore
from jobflow.settings import JobflowSettings
from maggma.core import Store
from maggma.core import StoreError as MaggmaStoreError
from maggma.stores import JSONStore, MongoStore, MontyStore
from monty.json import MontyDecoder, jsanitize
from pydantic import BaseModel, ValidationError
from pymongo import ReplaceOne, UpdateOne
from pymongo.errors import BulkWriteError, PyMongoError

from e3relax_flows.core.errors import ConfigError, StoreError
from e3relax_flows.core.finite import find_not_finite
from e3relax_flows.core.settings import DATA_FILE, E3RelaxSettings
from e3relax_flows.stores.sqlite import SQLiteStore

JOB_FILE = "jobs.sqlite"
STORE_TYPES: dict[str, type[Store]] = {
    **{name: getattr(maggma.stores, name) for name in maggma.stores.__all__ if name != "Store"},
    "SQLiteStore": SQLiteStore,
}
ACKNOWLEDGED = {"w": "majority", "journal": True}  # what MongoDB has acknowledged is then on disk
IDS_PER_QUERY = 2000
DUPLICATE_KEY = 11000
SERVER_METHODS = ("query", "query_one", "count", "distinct", "groupby", "update", "remove_docs", "ensure_index")

logger = logging.getLogger(__name__)
Doc = TypeVar("Doc", bound=BaseModel)


def is_job_store_configured() -> bool:
    """Whether jobflow's own configuration names a job store."""
    return "JOB_STORE" in JobflowSettings().model_fields_set


def open_job_store(settings: E3RelaxSettings, patience_ms: int | None = None) -> JobStore:
    """The store of jobs, connected, indexed by uuid: jobflow's where the user has configured one, else embedded.

    The embedded one has the additional store `data`; it is in a file of its own, which may be removed when the
    outputs of the jobs are no longer wanted. A server of MongoDB that does not answer is an error after `patience_ms`.

    Examples
    --------
    Jobflow's own store where `~/.jobflow.yaml` names one, else an embedded one:

    >>> from e3relax_flows import load_settings, open_job_store
    >>> with open_job_store(load_settings()) as store:
    ...     print(store.count())
    0
    """
    if is_job_store_configured():
        store = JobflowSettings().JOB_STORE
        if patience_ms is not None and isinstance(store.docs_store, MongoStore):
            store.docs_store.mongoclient_kwargs = {
                "serverSelectionTimeoutMS": patience_ms,
                **(store.docs_store.mongoclient_kwargs or {}),
            }
    else:
        path = settings.DATA_DIR / JOB_FILE
        blobs = SQLiteStore(path, "data", key="blob_uuid")
        store = JobStore(SQLiteStore(path, "outputs", key="uuid"), additional_stores={"data": blobs})
    try:
        store.connect()
        store.query_one({"uuid": ""}, ["uuid"])
        store.ensure_index("uuid")
    except PyMongoError as error:
        _close(store)
        raise StoreError(
            f"the job store {describe_store(store.docs_store)} cannot be reached ({error}); start the server, "
            "or correct JOB_STORE in the file named by JOBFLOW_CONFIG_FILE or in ~/.jobflow.yaml"
        ) from error
    return store


def build_store(spec: dict[str, Any] | None, settings: E3RelaxSettings, collection: str, key: str) -> Store:
    """The described store, or the embedded one, not yet connected.

    Parameters
    ----------
    spec
        As in jobflow.yaml: `type`, the name of a maggma store or SQLiteStore, and the arguments of its
        constructor; or a store serialised by monty, with @module and @class. None: SQLite in `DATA_DIR`.
    settings
        For `DATA_DIR`.
    collection
        Name of the collection when the description has none.
    key
        Field of the ids.

    Raises
    ------
    ConfigError
        When the type is unknown, its arguments are wrong, or it may lose documents that it has acknowledged.
    """
    if spec is None:
        return SQLiteStore(settings.DATA_DIR / DATA_FILE, collection, key=key)
    if "@class" in spec:
        store = MontyDecoder().process_decoded(spec)
    else:
        named = spec.get("type") in ("SQLiteStore", "MongoStore", "MemoryStore")
        store = _construct({"collection_name": collection, **spec} if named else spec)
    if not isinstance(store, Store):
        raise ConfigError(f"store {spec.get('@class')!r} cannot be made; check its @module and @class")
    _refuse_fragile(type(store))
    if type(store) is MongoStore and store.uri is None:
        store.mongoclient_kwargs = {**ACKNOWLEDGED, **store.mongoclient_kwargs}
    store.key = key
    return store


def open_store(
    settings: E3RelaxSettings, setting: str, collection: str, key: str, indexed: list[str], ending: str = ""
) -> Store:
    """The collection that a setting describes, or one beside it, connected; use it in a `with` or close it.

    Parameters
    ----------
    setting
        Name of the setting, such as PAIR_STORE.
    collection
        Its name where the setting has none.
    key, indexed
        Field of the ids, and others to index.
    ending
        Of the collection beside it: added to its name.

    Raises
    ------
    ConfigError
        When the store is described wrongly.
    StoreError
        When it cannot be reached.
    """
    spec = getattr(settings, setting)
    if spec is not None and ending:
        spec = {**spec, "collection_name": f"{spec.get('collection_name', collection)}{ending}"}
    return connect_store(build_store(spec, settings, collection + ending, key), indexed, setting)


def describe_store(store: Store) -> str:
    """Where a store is, without user names and passwords."""
    if type(store) is not MongoStore:
        return store.name
    host = store.uri.rsplit("@", 1)[-1].rsplit("//", 1)[-1].split("/")[0] if store.uri else f"{store.host}:{store.port}"
    return f"mongodb://{host}/{store.database}/{store.collection_name}"


def dump_document(doc: BaseModel) -> dict[str, Any]:
    """A document as stores keep it: plain values, structures as dictionaries, datetimes as they are."""
    return jsanitize(doc.model_dump(mode="python"), allow_bson=True, enum_values=True, recursive_msonable=True)


def replace_documents(store: Store, docs: Sequence[BaseModel]) -> None:
    """Write documents, each in place of that of the same id."""
    if docs:
        store.update([dump_document(doc) for doc in docs])


def dump_finite(doc: BaseModel) -> dict[str, Any]:
    """As `dump_document`.

    Raises
    ------
    StoreError
        When a number is not finite.
    """
    raw = dump_document(doc)
    if (place := find_not_finite(raw)) is not None:
        raise StoreError(f"a {type(doc).__name__} with {place} is not kept; leave it out")
    return raw


def _construct(spec: dict[str, Any]) -> Store:
    """The store described by a `type` and arguments, which may themselves be stores."""
    kind = spec.get("type")
    if kind not in STORE_TYPES:
        raise ConfigError(f"store type {kind!r} is unknown; known: {', '.join(sorted(STORE_TYPES))}")
    _refuse_fragile(STORE_TYPES[kind])
    arguments: dict[str, Any] = {
        name: _construct(value) if isinstance(value, dict) and "type" in value else value
        for name, value in spec.items()
        if name != "type"
    }
    try:
        return STORE_TYPES[kind](**arguments)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"store of type {kind}: {error}; its other entries are arguments of {kind}") from error


def _refuse_fragile(kind: type) -> None:
    if issubclass(kind, JSONStore | MontyStore):
        raise ConfigError(
            f"{kind.__name__} may lose or double documents when a process is killed or two write; leave the setting "
            "out for the embedded store, or use {type: SQLiteStore, path: FILE} or {type: MongoStore, ...}"
        )


def connect_store(store: Store, indexed: list[str], setting: str) -> Store:
    """Connect a store, make sure that it answers, and index it; `setting` is named where it does not."""
    try:
        store.connect()
        store.query_one({store.key: ""}, [store.key])
    except PyMongoError as error:
        _close(store)
        raise StoreError(
            f"{describe_store(store)} cannot be reached ({error}); start the server, correct {setting} in the "
            "settings, or leave it out to use the embedded store"
        ) from error
    if isinstance(store, MongoStore):
        _name_errors(store)
    if not store.ensure_index(store.key, unique=True):
        logger.warning("%s has no unique index on %s: not allowed, or ids occur twice", store.name, store.key)
    for field in indexed:
        store.ensure_index(field)
    logger.debug("store %s: opened for %s", describe_store(store), setting)
    return store


def _name_errors(store: Store) -> None:
    """Turn errors of a store's server into a StoreError that names the store."""

    def name(method: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)
        def call(*arguments: Any, **options: Any) -> Any:
            with translate_errors(store):
                result = method(*arguments, **options)
            return iterate(result) if isinstance(result, Iterator) else result

        return call

    def iterate(documents: Iterator[Any]) -> Iterator[Any]:
        with translate_errors(store):
            yield from documents

    for method in SERVER_METHODS:
        setattr(store, method, name(getattr(store, method)))


@contextmanager
def translate_errors(store: Store) -> Iterator[None]:
    """Turn errors of pymongo into a StoreError that names the store.

    Raises
    ------
    StoreError
        When the server does not answer, or does not allow something.
    """
    try:
        yield
    except PyMongoError as error:
        raise StoreError(f"{describe_store(store)}: {error}; run again when its server answers") from error


def _close(store: Store) -> None:
    """Close the open parts of a store after its server did not answer."""
    with suppress(MaggmaStoreError, AttributeError):  # a part that was never connected
        store.close()


def write_documents(store: Store, docs: list[dict[str, Any]], replaceable: dict[str, Any] | None = None) -> int:
    """Write the documents whose key is new, or whose stored form matches `replaceable`; the number written."""
    if not docs:
        return 0
    if isinstance(store, SQLiteStore):
        return store.write_once(docs, replaceable)
    try:
        if isinstance(store, MongoStore):
            return _write_once_to_mongo(store, docs, replaceable)
        known = _find_raw(store, [doc[store.key] for doc in docs], replaceable)
        new = [doc for doc in docs if doc[store.key] not in known]
        store.update(new)
        return len(new)
    except PyMongoError as error:
        raise StoreError(f"{describe_store(store)}: {error}; some documents may be written, run again") from error


def _write_once_to_mongo(store: MongoStore, docs: list[dict[str, Any]], replaceable: dict[str, Any] | None) -> int:
    """As SQLiteStore.write_once, one document at a time, safe against other writers."""
    key = store.key
    replaces = [ReplaceOne({key: doc[key], **replaceable}, doc) for doc in docs] if replaceable is not None else []
    inserts = [
        UpdateOne({key: doc[key]}, {"$setOnInsert": {name: doc[name] for name in doc if name != key}}, upsert=True)
        for doc in docs
    ]
    n_replaced = store._collection.bulk_write(replaces, ordered=False).matched_count if replaces else 0
    try:
        return int(n_replaced + store._collection.bulk_write(inserts, ordered=False).upserted_count)
    except BulkWriteError as error:
        # another process has written the same id at the same moment
        if any(failure["code"] != DUPLICATE_KEY for failure in error.details["writeErrors"]):
            raise
        return int(n_replaced + error.details["nUpserted"])


def _find_raw(store: Store, ids: list[str], replaceable: dict[str, Any] | None) -> set[str]:
    """Those of `ids` that are stored and must stay."""
    criteria: dict[str, Any] = {store.key: {"$in": ids}}
    if replaceable is not None:
        criteria["$nor"] = [replaceable]
    return {raw[store.key] for raw in store.query(criteria, [store.key])}


def find_by_id(
    store: Store, ids: list[str], model: type[Doc], key: str, criteria: dict[str, Any] | None
) -> dict[str, Doc]:
    """Documents of `ids` that match `criteria`, by id, in the order of `ids`."""
    found: dict[str, Doc] = {}
    for start in range(0, len(ids), IDS_PER_QUERY):
        query: dict[str, Any] = {key: {"$in": ids[start : start + IDS_PER_QUERY]}}
        for raw in store.query({"$and": [query, criteria]} if criteria else query):
            found[raw[key]] = validate_document(raw, model, store)
    return {name: found[name] for name in dict.fromkeys(ids) if name in found}


def validate_document(raw: dict[str, Any], model: type[Doc], store: Store) -> Doc:
    """A stored document as its model.

    Raises
    ------
    StoreError
        When it is not a document of this model.
    """
    raw.pop("_id", None)
    for part in (raw, *raw.get("history", [])):
        for name, value in part.items():
            if isinstance(value, datetime) and value.tzinfo is None:
                part[name] = value.replace(tzinfo=UTC)  # stores return UTC without a time zone
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        raise StoreError(
            f"{describe_store(store)}: document {raw.get(store.key)!r} is not a {model.__name__} of this release "
            f"({error}); it may be of a newer one: pip install -U e3relax-flows"
        ) from error
