"""One SQLite file shared by the threads and processes of a machine: opening, locking, forks, error messages."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from e3relax_flows.core.errors import StoreError

ELSEWHERE = "name another file with `path` of the store, or another folder with E3RELAX_DATA_DIR"
HINTS = {
    sqlite3.SQLITE_NOTADB: f"it is not an SQLite database; {ELSEWHERE}",
    sqlite3.SQLITE_CORRUPT: "it is damaged; save what can be read with: sqlite3 FILE .recover | sqlite3 NEW",
    sqlite3.SQLITE_CANTOPEN: f"it must be a file in a folder where you may write (`ls -ld`); {ELSEWHERE}",
    sqlite3.SQLITE_READONLY: f"it may not be written; type `chmod u+w` for it and its folder, or {ELSEWHERE}",
    sqlite3.SQLITE_BUSY: "another process kept it locked; find it with `fuser`",
    sqlite3.SQLITE_FULL: f"make room on the disk (`df -h`) or {ELSEWHERE}",
    sqlite3.SQLITE_IOERR: "the file must be on a local disk, not on a network file system",
    sqlite3.SQLITE_TOOBIG: "a document may have 1 GB; save its large part in files",
    sqlite3.SQLITE_CONSTRAINT: "a unique index forbids a second such document",
}
_INHERITED: list[sqlite3.Connection | None] = []  # of parent processes, kept so that they are never closed here


class SQLiteFile:
    """A connection in write-ahead mode, synchronous at every commit, used by one thread at a time.

    Parameters
    ----------
    path
        The file, absolute; made with its folder when missing.
    timeout_s
        How long to wait for another process that writes.
    set_up
        Called with each new connection, to make the tables.
    """

    def __init__(self, path: Path, timeout_s: float, set_up: Callable[[sqlite3.Connection], None]) -> None:
        self.path = path
        self.timeout_s = timeout_s
        self.set_up = set_up
        self._connection: sqlite3.Connection | None = None
        self._process = os.getpid()
        self._lock = threading.RLock()

    def open(self) -> None:
        """Connect, unless connected.

        Raises
        ------
        StoreError
            When the folder cannot be made, or the file is not a database or may not be written.
        """
        self._leave_parent()
        with self._lock:
            if self._connection is None:
                self._connection = self._connect()

    def close(self) -> None:
        """Disconnect; `open` connects again."""
        self._leave_parent()
        with self._lock:
            if self._connection is not None:
                self._connection.close()
            self._connection = None

    @contextmanager
    def use(self) -> Iterator[sqlite3.Connection]:
        """The connection, while other threads wait; after a fork a new one. Errors come as StoreError."""
        if self._leave_parent():
            self.open()
        with self._lock:
            if self._connection is None:
                raise StoreError(f"{self.path} is not connected; call connect() of the store first")
            with self._explain_errors():
                yield self._connection

    @contextmanager
    def transact(self) -> Iterator[sqlite3.Connection]:
        """A transaction: all writes within it or none; other writers wait."""
        with self.use() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")

    def fetch(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple]:
        """All rows of one statement."""
        with self.use() as connection:
            return connection.execute(sql, parameters).fetchall()

    def _leave_parent(self) -> bool:
        """In the child of a fork, forget the connection of the parent: SQLite forbids even closing it here.

        Returns whether there was a connection to forget.
        """
        if self._process == os.getpid():
            return False
        was_open = self._connection is not None
        _INHERITED.append(self._connection)
        self._connection = None
        self._lock = threading.RLock()
        self._process = os.getpid()
        return was_open

    def _connect(self) -> sqlite3.Connection:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"{self.path}: its folder cannot be made ({error}); {ELSEWHERE}") from error
        with self._explain_errors():
            connection = sqlite3.connect(
                self.path, timeout=self.timeout_s, isolation_level=None, check_same_thread=False
            )
            try:
                self._log_ahead(connection)
                connection.execute("PRAGMA synchronous = FULL")
                self.set_up(connection)
            except BaseException:
                connection.close()
                raise
        return connection

    def _log_ahead(self, connection: sqlite3.Connection) -> None:
        """Switch to write-ahead mode; here SQLite does not itself wait for others that open the file."""
        deadline = time.monotonic() + self.timeout_s
        while connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
            try:
                connection.execute("PRAGMA journal_mode = WAL")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)

    @contextmanager
    def _explain_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
            raise StoreError(f"{self.path}: {error}; {HINTS.get(code, ELSEWHERE)}") from error
