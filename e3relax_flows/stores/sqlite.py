"""A maggma store in one SQLite file: durable, quick by key, no server."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from maggma.core import DateTimeFormat, Sort, Store, Validator
from mongomock_ng.filtering import NOTHING, resolve_key
from monty.json import jsanitize

from e3relax_flows.core.errors import StoreError
from e3relax_flows.stores.json_documents import decode_document, encode_document, normalize_criteria
from e3relax_flows.stores.mongo_queries import (
    Matcher,
    build_prefilter,
    express_field,
    identify_value,
    list_distinct,
    project_document,
    sort_documents,
)
from e3relax_flows.stores.sqlite_file import SQLiteFile

Criteria = dict[str, Any]
PAGE = 16  # documents read at once while a query is iterated; each may be large


class SQLiteStore(Store):
    """A collection of JSON documents in a table of an SQLite file.

    Once `update` has returned, its documents survive the end of the process, and an `update` of many
    documents is stored whole or not at all. Threads and processes on one machine may share the file. Queries are
    MongoDB's; equality and `$in` on scalars are narrowed down by SQL, quickly so for the key and for the fields
    given to `ensure_index`. Documents have no size limit but SQLite's 1 GB. The file must be on a local disk.

    In `~/.jobflow.yaml`, which knows only maggma's own stores by a bare `type`, the job store is written in full::

        JOB_STORE:
          "@module": jobflow.core.store
          "@class": JobStore
          docs_store:
            "@module": e3relax_flows.stores.sqlite
            "@class": SQLiteStore
            path: /home/me/jobs.sqlite
            collection_name: outputs
          additional_stores:
            data:
              "@module": e3relax_flows.stores.sqlite
              "@class": SQLiteStore
              path: /home/me/jobs.sqlite
              collection_name: data

    Parameters
    ----------
    path
        The file; made with its folder when missing. A relative path is resolved once, here.
    collection_name
        The table.
    key
        Field, or list of fields, that identifies a document in `update`.
    last_updated_field, last_updated_type, validator
        As in every maggma store.
    timeout_s
        How long to wait for another process that writes.

    Examples
    --------
    A maggma store in one file, which many processes may write at the same time:

    >>> from e3relax_flows import SQLiteStore
    >>> with SQLiteStore("crystals.sqlite", key="name") as store:
    ...     store.update([{"name": "NaCl", "volume": 44.8}, {"name": "KCl", "volume": 62.3}])
    ...     print([document["name"] for document in store.query({"volume": {"$gt": 50}})])
    ['KCl']
    """

    def __init__(
        self,
        path: str | Path,
        collection_name: str = "documents",
        key: Any = "task_id",
        last_updated_field: str = "last_updated",
        last_updated_type: DateTimeFormat = DateTimeFormat.DateTime,
        validator: Validator | None = None,
        timeout_s: float = 60.0,
    ) -> None:
        super().__init__(key, last_updated_field, DateTimeFormat(last_updated_type), validator)
        self.path = str(Path(path).expanduser().absolute())
        self.collection_name = collection_name
        self.timeout_s = timeout_s
        self._table = _quote(collection_name)
        self._file = SQLiteFile(Path(self.path), timeout_s, self._make_table)
        self._indexed: set[str] = set()

    @property
    def name(self) -> str:
        """Where the documents are."""
        return f"sqlite://{self.path}/{self.collection_name}"

    @property
    def _collection(self) -> Any:
        raise StoreError(f"{self.name} has no pymongo collection; use the methods of the store")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SQLiteStore) and self.name == other.name

    def __hash__(self) -> int:
        return hash(self.name)

    def connect(self, force_reset: bool = False) -> None:
        """Open the file, and make it, its folder and its table where missing.

        Raises
        ------
        StoreError
            When the folder cannot be made, or the file is not a database or may not be written.
        """
        if force_reset:
            self.close()
        self._file.open()
        self._index_key(self._list_keys(None))

    def close(self) -> None:
        """Close the file; `connect` opens it again."""
        self._file.close()
        self._indexed.clear()

    def count(self, criteria: Criteria | None = None) -> int:
        """Number of documents that match."""
        if not criteria:
            return int(self._file.fetch(f"SELECT COUNT(*) FROM {self._table}")[0][0])
        return sum(1 for _ in self._iterate(criteria))

    def query(
        self,
        criteria: Criteria | None = None,
        properties: dict | list | None = None,
        sort: dict[str, Sort | int] | None = None,
        skip: int = 0,
        limit: int = 0,
    ) -> Iterator[dict]:
        """Documents that match, in the order of their first insertion unless `sort` is given.

        The store may be written during the iteration: the documents found at the start are returned, as they
        are when they are reached.
        """
        documents: Iterator[dict] = (document for _, document in self._iterate(criteria or {}))
        if sort:
            documents = iter(sort_documents(documents, sort))
        for document in islice(documents, skip, skip + limit if limit else None):
            yield project_document(document, properties)

    def update(self, docs: list[dict] | dict, key: list | str | None = None) -> None:
        """Write documents, all or none, each in place of the first one with the same `key`, if there is one."""
        self._write(docs, self._list_keys(key), replaceable={})

    def write_once(self, docs: list[dict] | dict, replaceable: Criteria | None = None) -> int:
        """Write those documents whose key is new, all or none; the number written.

        Parameters
        ----------
        docs
            Documents with the key of the store.
        replaceable
            Stored documents that match this are replaced nevertheless.
        """
        return self._write(docs, self._list_keys(None), replaceable)

    def ensure_index(self, key: str, unique: bool = False) -> bool:
        """Index a field; False where its name cannot be indexed or its values are not unique."""
        expression = express_field(key)
        if expression is None:
            return False
        try:
            self._make_index(f"{key}:{'unique' if unique else 'index'}", [expression], unique)
        except StoreError as error:
            if isinstance(error.__cause__, sqlite3.IntegrityError):
                return False
            raise
        return True

    def groupby(
        self,
        keys: list[str] | str,
        criteria: Criteria | None = None,
        properties: dict | list | None = None,
        sort: dict[str, Sort | int] | None = None,
        skip: int = 0,
        limit: int = 0,
    ) -> Iterator[tuple[dict, list[dict]]]:
        """Documents in groups of equal values of `keys`; those that lack one of them are left out.

        `sort`, `skip` and `limit` act on the documents, before they are grouped.
        """
        fields = [keys] if isinstance(keys, str) else list(keys)
        groups: dict[str, tuple[dict, list[dict]]] = {}
        for document in self.query(criteria, sort=sort, skip=skip, limit=limit):
            values = [resolve_key(field, document) for field in fields]
            if any(value is NOTHING for value in values):
                continue
            label = "\n".join(map(identify_value, values))
            if label not in groups:
                groups[label] = (project_document(document, [*fields]) | {}, [])
                groups[label][0].pop("_id", None)
            kept = properties if not properties or isinstance(properties, dict) else [*properties, *fields]
            groups[label][1].append(project_document(document, kept))
        yield from groups.values()

    def distinct(self, field: str, criteria: Criteria | None = None, all_exist: bool = False) -> list:  # noqa: ARG002
        """Different values of a field, elements of arrays one by one; `all_exist` does nothing, as in MongoStore."""
        return list_distinct((document for _, document in self._iterate(criteria or {})), field)

    def remove_docs(self, criteria: Criteria) -> None:
        """Remove the documents that match, all or none; {} removes every document."""
        with self._file.transact() as connection:
            found = [(row,) for row, _ in self._iterate(criteria)]
            connection.executemany(f"DELETE FROM {self._table} WHERE id = ?", found)

    # -- writing -------------------------------------------------------------------------------------------------

    def _write(self, docs: list[dict] | dict, keys: list[str], replaceable: Criteria | None) -> int:
        """Insert documents; where one with the same keys exists, replace it if it matches `replaceable`."""
        prepared = [(self._select(document, keys), encode_document(document)) for document in self._clean(docs)]
        self._index_key(keys)
        matcher = None if replaceable is None else Matcher(normalize_criteria(replaceable))
        n_written = 0
        with self._file.transact() as connection:
            for selection, text in prepared:
                row, existing = next(self._iterate(selection), (None, {}))
                if row is None:
                    connection.execute(f"INSERT INTO {self._table} (document) VALUES (?)", [text])
                elif matcher is not None and matcher.accept(existing):
                    connection.execute(f"UPDATE {self._table} SET document = ? WHERE id = ?", [text, row])
                else:
                    continue
                n_written += 1
        return n_written

    def _clean(self, docs: list[dict] | dict) -> Iterator[dict]:
        """Documents of plain types, and valid ones only, as MongoStore makes them."""
        for document in docs if isinstance(docs, list) else [docs]:
            clean = jsanitize(document, allow_bson=True, recursive_msonable=True)
            if self.validator and not self.validator.is_valid(clean):
                if getattr(self.validator, "strict", False):
                    raise ValueError(self.validator.validation_errors(clean))
                self.logger.error(self.validator.validation_errors(clean))
                continue
            yield clean

    def _select(self, document: dict, keys: list[str]) -> Criteria:
        """The query for the stored document that has the keys of this one."""
        values = {key: resolve_key(key, document) for key in keys}
        if missing := [key for key, value in values.items() if value is NOTHING]:
            raise StoreError(
                f"{self.name}: a document has no {missing[0]!r}, which identifies documents here "
                f"(it has {', '.join(sorted(document)[:12])}); add it, or give `key` to update()"
            )
        return {key: {"$eq": value} for key, value in values.items()}

    def _list_keys(self, key: list | str | None) -> list[str]:
        key = self.key if key is None else key
        return [key] if isinstance(key, str) else list(key)

    def _index_key(self, keys: list[str]) -> None:
        """Index the fields of a key, together: the first alone may have few values."""
        expressions = [expression for key in keys if (expression := express_field(key))]
        if len(expressions) == len(keys):
            self._make_index(f"{','.join(keys)}:key", expressions)

    def _make_index(self, label: str, expressions: list[str], unique: bool = False) -> None:
        if label in self._indexed:
            return
        name = _quote(f"{self.collection_name}:{label}")
        kind = "UNIQUE INDEX" if unique else "INDEX"
        columns = ", ".join(expressions)
        self._file.fetch(f"CREATE {kind} IF NOT EXISTS {name} ON {self._table} ({columns})")
        self._indexed.add(label)

    def _make_table(self, connection: sqlite3.Connection) -> None:
        connection.execute(f"CREATE TABLE IF NOT EXISTS {self._table} (id INTEGER PRIMARY KEY, document TEXT NOT NULL)")
        columns = [row[1] for row in connection.execute(f"PRAGMA table_info({self._table})")]
        if columns != ["id", "document"]:
            raise StoreError(
                f"{self.path}: table {self.collection_name!r} belongs to another program (its columns are "
                f"{', '.join(columns)}); give the store another `collection_name` or `path`"
            )

    # -- reading -------------------------------------------------------------------------------------------------

    def _iterate(self, criteria: Criteria) -> Iterator[tuple[int, dict]]:
        """Rows and documents that match, in the order of insertion."""
        matcher = Matcher(normalize_criteria(criteria))
        condition, parameters = build_prefilter(matcher.criteria)
        rows = sorted(row for (row,) in self._file.fetch(f"SELECT id FROM {self._table} WHERE {condition}", parameters))
        for start in range(0, len(rows), PAGE):
            page = rows[start : start + PAGE]
            marks = ",".join("?" * len(page))
            sql = f"SELECT id, document FROM {self._table} WHERE id IN ({marks}) ORDER BY id"
            for row, text in self._file.fetch(sql, page):
                document = decode_document(text)
                if matcher.accept(document):
                    yield row, document


def _quote(name: str) -> str:
    """A name as SQL takes any name."""
    return '"' + name.replace('"', '""') + '"'
