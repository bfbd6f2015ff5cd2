"""Where the registry of models is, and whether there is one, without opening it: most predictions need none."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from e3relax_flows.core.settings import DATA_FILE, E3RelaxSettings

MODEL_COLLECTION, ALIAS_COLLECTION = "models", "aliases"


def name_collections(settings: E3RelaxSettings) -> tuple[str, str]:
    """Names of the collections of models and of aliases."""
    named = (settings.MODEL_STORE or {}).get("collection_name")
    return (named, f"{named}_{ALIAS_COLLECTION}") if named else (MODEL_COLLECTION, ALIAS_COLLECTION)


def find_registry_file(settings: E3RelaxSettings) -> Path | None:
    """The SQLite file of the registry, whether or not it exists; None where the registry is on a server."""
    spec: dict[str, Any] | None = settings.MODEL_STORE
    if spec is None:
        return settings.DATA_DIR / DATA_FILE
    is_file = "SQLiteStore" in (spec.get("type"), spec.get("@class"))
    return Path(spec["path"]) if is_file and isinstance(spec.get("path"), str) else None


def has_collection(settings: E3RelaxSettings, collection: str) -> bool:
    """Whether there may be documents in a collection of the registry; looking makes neither files nor tables."""
    file = find_registry_file(settings)
    if file is None:
        return True
    if not file.exists():
        return False
    try:
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            table = connection.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", [collection])
            return table.fetchone() is not None
    except sqlite3.Error:
        return True  # who opens it is told what is wrong


def has_registry(settings: E3RelaxSettings) -> bool:
    """Whether a model or an alias may be registered."""
    return any(has_collection(settings, collection) for collection in name_collections(settings))
