"""Location of the registry of models, without loading maggma: its file, its collections, the folder of models."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from e3relax_flows.core.errors import ConfigError
from e3relax_flows.core.model_folders import is_bundled_name, is_model_folder
from e3relax_flows.core.settings import DATA_FILE, E3RelaxSettings

MODELS_DIR = "models"
FOLDER_STORE = "FileStore"  # the type of a WEIGHTS_STORE that is a folder of model folders
MODEL_COLLECTION, ALIAS_COLLECTION = "models", "aliases"


def find_models_dir(settings: E3RelaxSettings) -> Path:
    """Folder of the model folders of this machine.

    Raises
    ------
    ConfigError
        When the settings require one and do not name it.
    """
    spec = settings.WEIGHTS_STORE or {}
    if spec.get("type") != FOLDER_STORE:
        return settings.DATA_DIR / MODELS_DIR
    if not isinstance(spec.get("path"), str):
        raise ConfigError(f"WEIGHTS_STORE {spec} names no folder; write {{type: {FOLDER_STORE}, path: FOLDER}}")
    return Path(spec["path"])


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
    """Whether there may be documents in a collection of the registry; the check creates neither files nor tables."""
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
        return True  # opening it reports the error


def needs_registry(spec: str, settings: E3RelaxSettings) -> bool:
    """Whether `spec` must be looked up in the registry: it is not a folder and not bundled, and a registry exists."""
    if is_model_folder(spec) or is_bundled_name(spec):
        return False
    return any(has_collection(settings, collection) for collection in name_collections(settings))
