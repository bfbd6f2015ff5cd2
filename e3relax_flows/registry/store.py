"""Open the stores of registered models and of aliases, and read their documents; reading does not create a store."""

from __future__ import annotations

from typing import Any, TypeVar

from maggma.core import Store
from maggma.stores import MongoStore
from pydantic import BaseModel

from e3relax_flows.core.errors import ConfigError, StoreError
from e3relax_flows.core.model_folders import MODEL_ID
from e3relax_flows.core.settings import E3RelaxSettings
from e3relax_flows.registry.location import find_registry_file, has_collection, name_collections
from e3relax_flows.schemas.models import AliasDoc, ModelDoc
from e3relax_flows.stores.opening import build_store, connect_store, describe_store, validate_document
from e3relax_flows.stores.pool import SettingsLike, open_pool, shared
from e3relax_flows.stores.sqlite import SQLiteStore

Doc = TypeVar("Doc", bound=BaseModel)


@shared
def open_model_store(settings: E3RelaxSettings) -> Store:
    """The store of registered models, connected, closed at the end.

    Raises
    ------
    ConfigError
        When the store is described wrongly, or cannot write safely beside other writers.
    StoreError
        When the store cannot be reached.
    """
    return _open(settings, name_collections(settings)[0], "model_id", ["name"])


@shared
def open_alias_store(settings: E3RelaxSettings) -> Store:
    """The store of aliases, connected, closed at the end; errors are those of `open_model_store`."""
    return _open(settings, name_collections(settings)[1], "name", [])


def describe_registry(settings: E3RelaxSettings) -> str:
    """Where the registry is, without passwords."""
    file = find_registry_file(settings)
    if file is not None:
        return f"{file}{'' if file.exists() else ', made when it is first needed'}"
    models, _ = name_collections(settings)
    return describe_store(build_store(settings.MODEL_STORE, settings, models, "model_id"))


def find_model_doc(model_id: str, settings: SettingsLike = None) -> ModelDoc | None:
    """The document of a registered model; None when there is none."""
    return next(iter(find_model_docs({"model_id": model_id}, settings)), None)


def find_model_docs(criteria: dict[str, Any], settings: SettingsLike = None) -> list[ModelDoc]:
    """Registered models that match, oldest first."""
    with open_pool(settings) as pool:
        if not has_collection(pool.settings, name_collections(pool.settings)[0]):
            return []
        store = pool.get(open_model_store)
        return sorted(
            (_validate(raw, ModelDoc, store) for raw in store.query(criteria)), key=lambda doc: doc.created_at
        )


def find_alias(name: str, settings: SettingsLike = None) -> AliasDoc | None:
    """An alias with its history; None when it was never moved.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from e3relax_flows import find_alias, isolate_stores, promote, resolve_model
    >>> settings = isolate_stores(Path(tempfile.mkdtemp()))  # of all that follows
    >>> print(find_alias("oxides"))
    None
    >>> _ = promote("oxides", resolve_model("default").model_id, "the bundled model, to begin with")
    >>> find_alias("oxides").version
    1
    """
    return next(iter(list_aliases(settings, {"name": name})), None)


def list_aliases(settings: SettingsLike = None, criteria: dict[str, Any] | None = None) -> list[AliasDoc]:
    """All aliases that were ever moved, or those that match, by name."""
    with open_pool(settings) as pool:
        if not has_collection(pool.settings, name_collections(pool.settings)[1]):
            return []
        store = pool.get(open_alias_store)
        return sorted((_validate(raw, AliasDoc, store) for raw in store.query(criteria)), key=lambda doc: doc.name)


def _open(settings: E3RelaxSettings, collection: str, key: str, indexed: list[str]) -> Store:
    """A store of the registry; errors of servers become StoreError."""
    spec = settings.MODEL_STORE
    if spec and "collection_name" in spec:
        spec = {**spec, "collection_name": collection}
    store = build_store(spec, settings, collection, key)
    if not isinstance(store, SQLiteStore | MongoStore):
        raise ConfigError(
            f"MODEL_STORE is a {type(store).__name__}, in which two could move an alias at once; "
            "use {type: MongoStore, ...} or {type: SQLiteStore, path: FILE}, or leave it out"
        )
    return connect_store(store, indexed, "MODEL_STORE")


def _validate(raw: dict[str, Any], model: type[Doc], store: Store) -> Doc:
    if not MODEL_ID.fullmatch(str(raw.get("model_id"))):  # it becomes the name of a folder
        raise StoreError(f"{describe_store(store)}: {raw.get('model_id')!r} is not a model's id; remove that document")
    return validate_document(raw, model, store)
