"""Files of registered models: model folders, or parts in a store with verified copies on this machine."""

from __future__ import annotations

import hashlib
import json
import logging
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from botocore.exceptions import BotoCoreError, ClientError
from maggma.core import Store
from maggma.core import StoreError as MaggmaStoreError
from maggma.stores import GridFSStore
from pymongo.errors import PyMongoError

from e3relax_flows.core.errors import ModelError, StoreError
from e3relax_flows.core.model_folders import (
    CARD_FILE,
    CONFIG_FILE,
    WEIGHTS_FILE,
    ModelFolder,
    identify_model,
    read_model_folder,
    write_model_folder,
)
from e3relax_flows.core.settings import E3RelaxSettings
from e3relax_flows.registry.location import FOLDER_STORE, find_models_dir
from e3relax_flows.schemas.models import ModelDoc
from e3relax_flows.stores.opening import ACKNOWLEDGED, build_store, describe_store

CACHE_DIR = "model_cache"
PART_KEY, PARTS = "part_id", "weights"
PART_BYTES = 4 * 2**20  # MongoDB's documents have up to 16 MiB
PUT_TRIES = 5  # each is needed only when another has just replaced the same damaged folder
INTACT = "run `e3relax models import FOLDER` with an intact copy"

logger = logging.getLogger(__name__)


class Weights(Protocol):
    """Location of the files of registered models."""

    @property
    def name(self) -> str:
        """The location, without passwords."""

    def check(self) -> None:
        """Check that the location can be used.

        Raises
        ------
        StoreError
            When it cannot.
        """

    def save(self, doc: ModelDoc, weights: bytes) -> None:
        """Store the files of a model; damaged ones are replaced, intact ones are left."""

    def load(self, doc: ModelDoc) -> ModelFolder:
        """The model's folder on this machine, verified.

        Raises
        ------
        ModelError
            When its files are missing or are not what was registered.
        """


def open_weights(settings: E3RelaxSettings) -> Weights:
    """The location that the settings name; a store is connected when it is used."""
    spec = settings.WEIGHTS_STORE
    if spec is None or spec.get("type") == FOLDER_STORE:
        return FolderWeights(find_models_dir(settings))
    store = build_store(_complete_spec(spec), settings, PARTS, PART_KEY)
    return StoredWeights(store, settings.DATA_DIR / CACHE_DIR)


@contextmanager
def hold_weights(settings: E3RelaxSettings) -> Iterator[Weights]:
    """The location of weights, if it can be used; errors are those of `Weights.check`."""
    weights = open_weights(settings)
    weights.check()
    yield weights


@dataclass(frozen=True)
class FolderWeights:
    """Model folders below `root`: one called by its model id for each that was registered from elsewhere."""

    root: Path

    @property
    def name(self) -> str:
        """The folder."""
        return str(self.root)

    def check(self) -> None:
        """A folder is made when it is first needed."""

    def save(self, doc: ModelDoc, weights: bytes) -> None:
        """Write the files, unless they are below `root` under the model's name already."""
        with suppress(ModelError):
            self.load(doc)
            return
        _put(self.root / doc.model_id, doc, weights, "WEIGHTS_STORE or E3RELAX_DATA_DIR")

    def load(self, doc: ModelDoc) -> ModelFolder:
        """The folder called by the id, or the one called by the name where that is the model."""
        by_id, by_name = self.root / doc.model_id, self.root / doc.name
        if by_id.exists():
            return _verify(by_id, doc)
        if by_name.exists():
            return _verify(by_name, doc)
        raise ModelError(
            f"model {doc.name} ({doc.model_id}) is registered, but its files are not in {self.root}; "
            f"{INTACT}, and set WEIGHTS_STORE so that every machine finds them"
        )


@dataclass(frozen=True)
class StoredWeights:
    """Weights as documents of `PART_BYTES` in a maggma store, named by their hash, and copies below `cache`."""

    store: Store
    cache: Path

    @property
    def name(self) -> str:
        """The store."""
        return _describe(self.store)

    def check(self) -> None:
        """Open the store and close it."""
        with self._open() as store:
            store.query_one({PART_KEY: ""})

    def save(self, doc: ModelDoc, weights: bytes) -> None:
        """Write the parts that are missing or damaged, and read all of them back."""
        with self._open() as store:
            for index, start in enumerate(range(0, len(weights), PART_BYTES)):
                part = weights[start : start + PART_BYTES]
                if _read_part(store, doc, index) != part:
                    data = b64encode(part).decode()
                    store.update([{PART_KEY: _name_part(doc, index), "sha256": doc.weights_sha256, "data": data}])
                    logger.info("model %s: part %d of its weights is written to %s", doc.model_id, index, self.name)
            if self._read(store, doc) != weights:
                raise StoreError(f"{self.name} does not return what was written to it; correct WEIGHTS_STORE")

    def load(self, doc: ModelDoc) -> ModelFolder:
        """The copy on this machine; fetched where it is missing or damaged."""
        path = self.cache / doc.model_id
        if path.exists():
            with suppress(ModelError):
                return _verify(path, doc)
        with self._open() as store:
            weights = self._read(store, doc)
        logger.info("model %s: %d bytes fetched from %s to %s", doc.model_id, len(weights), self.name, path)
        if hashlib.sha256(weights).hexdigest() != doc.weights_sha256:
            raise ModelError(
                f"the weights of model {doc.name} ({doc.model_id}) in {self.name} are damaged, incomplete or were "
                f"changed; {INTACT}"
            )
        return _put(path, doc, weights, "E3RELAX_DATA_DIR")

    def _read(self, store: Store, doc: ModelDoc) -> bytes:
        """The stored parts, together never more than was registered."""
        parts: list[bytes] = []
        for index in range(-(-doc.n_bytes // PART_BYTES)):
            if (part := _read_part(store, doc, index)) is None or len(part) > PART_BYTES:
                break
            parts.append(part)
        return b"".join(parts)

    @contextmanager
    def _open(self) -> Iterator[Store]:
        """The store, connected; errors of servers become StoreError."""
        try:
            self.store.connect()
            try:
                self.store.ensure_index(PART_KEY)
                yield self.store
            finally:
                with suppress(MaggmaStoreError, AttributeError):  # a part that was never connected
                    self.store.close()
        except (PyMongoError, BotoCoreError, ClientError, RuntimeError) as error:  # RuntimeError: maggma, no bucket
            raise StoreError(
                f"{self.name} cannot be used ({error}); start the server, or correct WEIGHTS_STORE in the settings"
            ) from error


def read_weights(folder: ModelFolder) -> bytes:
    """The bytes of a folder's weights, verified by its id and its configuration.

    Raises
    ------
    ModelError
        When they are not.
    """
    path = folder.path / WEIGHTS_FILE
    try:
        weights = path.read_bytes()
    except OSError as error:
        raise ModelError(f"cannot read {path} ({error.strerror}); {INTACT}") from error
    stated, actual = folder.config.get("weights_sha256"), hashlib.sha256(weights).hexdigest()
    if stated != actual or identify_model(folder.config, weights) != folder.model_id:
        raise ModelError(
            f"{path} is damaged or was changed: its sha256 is {actual[:16]}..., {CONFIG_FILE} states "
            f"{str(stated)[:16]}...; {INTACT}"
        )
    return weights


def _read_part(store: Store, doc: ModelDoc, index: int) -> bytes | None:
    """One part; None if it is missing or not a part."""
    raw = store.query_one({PART_KEY: _name_part(doc, index)})
    data = raw.get("data") if raw else None
    try:
        return b64decode(data, validate=True) if isinstance(data, str) else None
    except (Base64Error, ValueError):
        return None


def _name_part(doc: ModelDoc, index: int) -> str:
    return f"{doc.weights_sha256}-{index:04d}"


def _complete_spec(spec: dict[str, Any]) -> dict[str, Any]:
    """The description of a store of weights with the arguments that all of them share."""
    kind = spec.get("type")
    if kind == GridFSStore.__name__:
        acknowledged = {} if "uri" in spec else ACKNOWLEDGED
        client = {"mongoclient_kwargs": {**acknowledged, **spec.get("mongoclient_kwargs", {})}}
        return {"collection_name": PARTS, **spec, **client}
    if isinstance(index := spec.get("index"), dict):  # S3Store and its like
        named = {} if "@class" in index else {"collection_name": PARTS}
        return {**spec, "key": PART_KEY, "index": {**named, **index, "key": PART_KEY}}
    return spec


def _describe(store: Store) -> str:
    if isinstance(store, GridFSStore) and store.uri is not None:  # its name would be the URI with its passwords
        return f"gridfs://{store.uri.rsplit('@', 1)[-1].rsplit('//', 1)[-1]}/{store.collection_name}"
    return describe_store(store)


def _put(path: Path, doc: ModelDoc, weights: bytes, setting: str) -> ModelFolder:
    """Write a model folder unless an intact one exists; other processes may do it at the same time."""
    for _ in range(PUT_TRIES):
        was_there = path.exists()
        with suppress(ModelError):
            return _verify(path, doc)
        _write(path, doc, weights, setting, replace_damaged=was_there)
    return _verify(path, doc)


def _write(path: Path, doc: ModelDoc, weights: bytes, setting: str, replace_damaged: bool) -> None:
    """Write a model folder."""
    text = json.dumps(doc.config, indent=2, sort_keys=True) + "\n"
    files = {CONFIG_FILE: text.encode(), WEIGHTS_FILE: weights, CARD_FILE: doc.card.encode()}
    try:
        write_model_folder(path, files, replace=replace_damaged)
    except OSError as error:
        raise ModelError(
            f"model {doc.name} ({doc.model_id}) cannot be written to {path} ({error.strerror or error}); make room "
            f"on the disk (`df -h`) or name another location with {setting}"
        ) from error


def _verify(path: Path, doc: ModelDoc) -> ModelFolder:
    """The folder, when its configuration and weights are those of the registered model."""
    try:
        folder = read_model_folder(path)
    except ModelError as error:
        raise ModelError(f"model {doc.name} ({doc.model_id}): {error}; {INTACT}") from error
    if folder.model_id != doc.model_id:
        raise ModelError(
            f"{path} does not hold model {doc.name} ({doc.model_id}): its files make {folder.model_id}, so they are "
            f"damaged or were changed; {INTACT}"
        )
    return replace(folder, name=doc.name)
