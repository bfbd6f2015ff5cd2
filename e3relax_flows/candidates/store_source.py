"""Structures from the documents of a maggma store: a job store, a copy of a database, or any collection."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from maggma.core import Store
from pymatgen.core import Structure
from pymongo.errors import PyMongoError

from e3relax_flows.candidates.reading import ReadItem
from e3relax_flows.core.errors import E3RelaxError, StoreError
from e3relax_flows.core.records import build_structure
from e3relax_flows.core.settings import E3RelaxSettings
from e3relax_flows.stores.opening import build_store, describe_store
from e3relax_flows.stores.sqlite import SQLiteStore


def read_store(
    spec: dict[str, Any], criteria: dict[str, Any], structure_field: str, id_field: str, settings: E3RelaxSettings
) -> Iterator[ReadItem]:
    """Structures of the documents that match, one by one; a document without one is an item with the reason.

    Parameters
    ----------
    spec
        The store, as in jobflow.yaml; it is read only.
    criteria
        MongoDB query.
    structure_field, id_field
        Fields of structure and id, with dots; a document without an id is named by its number.
    settings
        For the folder of embedded stores.

    Raises
    ------
    ConfigError
        When the store is described wrongly.
    StoreError
        When it does not answer.
    """
    with _open(build_store(spec, settings, "documents", id_field)) as store:
        name = describe_store(store)
        for number, document in enumerate(store.query(criteria, [id_field, structure_field]), start=1):
            found = _follow(document, id_field)
            id = f"document-{number}" if found is None else str(found)
            try:
                yield ReadItem(id, _read(_follow(document, structure_field), structure_field), None)
            except Exception as error:  # the boundary between documents
                reason = (
                    str(error)
                    if isinstance(error, E3RelaxError) or type(error) is ValueError
                    else f"{type(error).__name__}: {error}"
                )
                yield ReadItem(id, None, f"{name}, {id}: {reason}")


@contextmanager
def _open(store: Store) -> Iterator[Store]:
    """A store, connected; neither an index nor a file is made, since it is the user's."""
    if isinstance(store, SQLiteStore) and not Path(store.path).exists():
        raise StoreError(f"{store.name}: there is no such file; correct `store` of this source")
    try:
        store.connect()
        store.query_one({store.key: ""}, [store.key])
    except PyMongoError as error:
        raise StoreError(
            f"{describe_store(store)} cannot be read ({error}); start the server or correct `store` of this source"
        ) from error
    try:
        yield store
    finally:
        store.close()


def _read(value: Any, field: str) -> Structure:
    if isinstance(value, Structure):
        return value
    if not isinstance(value, dict) or "sites" not in value:
        raise ValueError(f"its {field!r} is {type(value).__name__}, not a structure; name the field that holds it")
    return build_structure(value, field)


def _follow(document: Any, field: str) -> Any:
    for name in field.split("."):
        document = document.get(name) if isinstance(document, dict) else None
    return document
