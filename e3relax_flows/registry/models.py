"""The registry of models: register them, find them by alias, name or id, and get their verified files."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from e3relax_flows.core.errors import ConfigError, ModelError, StoreError
from e3relax_flows.core.model_folders import (
    ALIASES,
    BUNDLED,
    CARD_FILE,
    MODEL_ID,
    MODEL_NAME,
    ModelFolder,
    find_model,
    identify_model,
    is_bundled_name,
    is_model_folder,
    is_model_id,
    list_model_folders,
    list_model_paths,
    match_folders,
    read_listed_folder,
    read_model_folder,
)
from e3relax_flows.registry.location import find_models_dir
from e3relax_flows.registry.store import find_alias, find_model_doc, find_model_docs, list_aliases, open_model_store
from e3relax_flows.registry.weights import open_weights, read_weights
from e3relax_flows.schemas.models import ModelDoc
from e3relax_flows.stores.opening import dump_document, write_documents
from e3relax_flows.stores.pool import SettingsLike, StorePool, open_pool

OWN_FIELDS = {"model_id", "kind", "config", "weights_sha256", "n_bytes"}  # read from the folder, never given


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class KnownModel:
    """A model that can be named: bundled or in a folder of this machine, registered, or both."""

    model_id: str
    name: str
    folder: ModelFolder | None = None
    doc: ModelDoc | None = None
    aliases: list[str] = field(default_factory=list)

    @property
    def is_bundled(self) -> bool:
        """Whether it comes with the package."""
        return self.folder is not None and self.folder.path.parent == BUNDLED


@dataclass(frozen=True)
class Inventory:
    """All known models, and the folders without a valid model, with the reason."""

    models: list[KnownModel]
    problems: dict[Path, str]


def resolve_model(spec: str, settings: SettingsLike = None) -> ModelFolder:
    """The verified folder of a model, fetched where it is not on this machine.

    Parameters
    ----------
    spec
        Alias, name, id (8 digits or more) or path of a folder. An alias is resolved now: pass on the
        `model_id` of the folder, never the alias.
    settings
        Where the registry is: settings, or a `Workspace`. None: read now.

    Raises
    ------
    ModelError
        When no model or more than one model matches `spec`, or its files are not what was registered.
    StoreError
        When the registry or the store of weights cannot be used.

    Examples
    --------
    >>> from e3relax_flows import resolve_model
    >>> folder = resolve_model("default")
    >>> folder.name, resolve_model(folder.model_id[:12]).model_id == folder.model_id
    ('base', True)
    """
    with open_pool(settings) as pool:
        model = locate_model(spec, pool)
        if model.folder is not None:
            return replace(model.folder, name=model.name)
        return open_weights(pool.settings).load(model.doc) if model.doc else fetch_model(model.model_id, pool)


def locate_model(spec: str, settings: SettingsLike = None) -> KnownModel:
    """The model that `spec` means, without fetching its files; parameters and errors are those of `resolve_model`."""
    if is_model_folder(spec):
        return _know(read_model_folder(Path(spec)))
    if is_bundled_name(spec):
        return _know(find_model(spec))
    with open_pool(settings) as pool:
        found = _find_named(spec, pool)
        if len(found) == 1:
            return found[0]
        if found:
            listed = ", ".join(f"{model.model_id} ({model.name})" for model in found)
            raise ModelError(f"model {spec!r} may be any of {listed}; give the id")
        paths = list_model_paths(find_models_dir(pool.settings))
        names = {path.name for path in paths if not MODEL_ID.fullmatch(path.name)}
        names |= {doc.name for doc in find_model_docs({}, pool)}
        aliases = sorted({*ALIASES, *(doc.name for doc in list_aliases(pool))})
    raise ModelError(
        f"model {spec!r} is not an alias ({', '.join(aliases)}) and not one of the {len(names)} known models "
        f"({', '.join(sorted(names))}) nor the id of one; run `e3relax models list`"
    )


def _find_named(spec: str, pool: StorePool) -> list[KnownModel]:
    """The models that an id, an alias or a name may mean, each once."""
    if MODEL_ID.fullmatch(spec):  # nothing else may be called by an id
        if doc := find_model_doc(spec, pool):
            return [KnownModel(spec, doc.name, None, doc)]
        if folders := match_folders(spec, find_models_dir(pool.settings)):
            return [_know(folders[-1])]
    alias = find_alias(spec, pool)
    if spec in ALIASES:  # it means what it was moved to, or its bundled model, and nothing else
        return [_locate_id(alias.model_id, pool) if alias else _know(find_model(spec))]
    meant = [_locate_id(alias.model_id, pool)] if alias else []
    found = {model.model_id: model for model in _match(spec, pool)}
    return list((found | {model.model_id: model for model in meant}).values())


def fetch_model(model_id: str, settings: SettingsLike = None) -> ModelFolder:
    """The verified folder of a registered or bundled model, by its whole id.

    Raises
    ------
    ModelError
        When there is no such model, or its files are not what was registered.
    StoreError
        When the registry or the store of weights cannot be used.
    """
    with open_pool(settings) as pool:
        if doc := find_model_doc(model_id, pool):
            return open_weights(pool.settings).load(doc)
    return _find_bundled(model_id)


def list_models(settings: SettingsLike) -> Inventory:
    """All models that can be named: bundled and registered ones, and those on this machine only."""
    meanings = {alias: find_model(alias).model_id for alias in ALIASES}
    with open_pool(settings) as pool:
        meanings |= {doc.name: doc.model_id for doc in list_aliases(pool)}
        docs = {doc.model_id: doc for doc in find_model_docs({}, pool)}
        paths = list_model_paths(find_models_dir(pool.settings))
    folders: dict[str, ModelFolder] = {}
    problems: dict[Path, str] = {}
    for path in paths:
        try:
            folder = read_listed_folder(path)
        except ModelError as error:
            problems[path] = str(error)
            continue
        if folder.model_id not in folders or MODEL_ID.fullmatch(folders[folder.model_id].name):
            folders[folder.model_id] = folder  # of two folders of one model the one that a user has named
    models = []
    for model_id in {**folders, **docs}:
        doc, at = docs.get(model_id), folders.get(model_id)
        name = doc.name if doc else folders[model_id].name
        aliases = sorted(alias for alias, meant in meanings.items() if meant == model_id)
        models.append(KnownModel(model_id, name, at, doc, aliases))
    return Inventory(models, problems)


def register_model(folder: ModelFolder, settings: SettingsLike = None, **facts: Any) -> ModelDoc:
    """Store a model's files and its document; a registered model stays as it is, and damaged files are replaced.

    Parameters
    ----------
    folder
        The model; its files are verified.
    settings
        Where the registry is: settings, or a `Workspace`. None: read now.
    facts
        Fields of `ModelDoc` that the folder does not hold: name, parent_id, dataset_id, run_id, metrics,
        training_hours, hardware, ...

    Raises
    ------
    ModelError
        When the files do not fit each other, or the name is unusable or taken by an alias or a bundled model.
    ConfigError
        When a fact is unknown or of the wrong type.
    StoreError
        When the registry or the store of weights cannot be used.

    Examples
    --------
    A trained model is registered with what is known of it:

    >>> import tempfile
    >>> from pathlib import Path
    >>> from e3relax_flows import isolate_stores, register_model, resolve_model
    >>> settings = isolate_stores(Path(tempfile.mkdtemp()))  # of all that follows
    >>> document = register_model(resolve_model("default"), training_hours=1.5)
    >>> document.kind, document.training_hours
    ('e3relax_h2', 1.5)
    """
    weights = read_weights(folder)
    doc = describe_model(folder, weights, **facts)
    with open_pool(settings) as pool:
        _check_name(doc, pool)
        existing = find_model_doc(doc.model_id, pool)
        # first the files: the files of a registered model must exist
        open_weights(pool.settings).save(existing or doc, weights)
        if existing is None:
            write_documents(pool.get(open_model_store), [dump_document(doc)])
            logger.info("model %s: registered as %s", doc.model_id, doc.name)
            existing = find_model_doc(doc.model_id, pool)
    if existing is None or identify_model(existing.config, weights) != doc.model_id:
        raise StoreError("the registry does not return what was written to it; correct MODEL_STORE")
    return existing


def describe_model(folder: ModelFolder, weights: bytes, **facts: Any) -> ModelDoc:
    """The document of a model in a folder, not stored.

    Raises
    ------
    ConfigError
        When a fact is unknown or of the wrong type.
    """
    free = ModelDoc.model_fields.keys() - OWN_FIELDS
    if unknown := facts.keys() - free:
        raise ConfigError(f"{', '.join(sorted(unknown))} of a model cannot be given; known: {', '.join(sorted(free))}")
    card = folder.path / CARD_FILE
    own = {
        "model_id": folder.model_id,
        "name": folder.name,
        "kind": str(folder.config.get("kind")),
        "config": folder.config,
        "card": card.read_text(encoding="utf-8") if card.exists() else "",
        "weights_sha256": folder.config["weights_sha256"],
        "n_bytes": len(weights),
    }
    try:
        return ModelDoc.model_validate({**own, **facts})
    except ValidationError as error:
        lines = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']} (got {e['input']!r})" for e in error.errors())
        raise ConfigError(f"facts of model {folder.name}: {lines}") from error


def _check_name(doc: ModelDoc, pool: StorePool) -> None:
    if not MODEL_NAME.fullmatch(doc.name):
        raise ModelError(f"{doc.name!r} cannot be a model's name; use letters, digits, '.', '_' and '-'")
    if is_model_id(doc.name) and doc.name != doc.model_id:
        raise ModelError(f"{doc.name!r} looks like the id of another model; name the model differently")
    if doc.name in ALIASES or find_alias(doc.name, pool):
        raise ModelError(f"{doc.name!r} is an alias, run `e3relax models history --alias {doc.name}`; choose a name")
    if is_bundled_name(doc.name) and find_model(doc.name).model_id != doc.model_id:
        raise ModelError(f"{doc.name!r} is the name of a bundled model; name yours differently")


def _locate_id(model_id: str, pool: StorePool) -> KnownModel:
    """A registered or bundled model."""
    if doc := find_model_doc(model_id, pool):
        return KnownModel(model_id, doc.name, None, doc)
    return _know(_find_bundled(model_id))


def _match(spec: str, pool: StorePool) -> list[KnownModel]:
    """Models of the name; if there are none, those whose id begins so; each with its folder and its document."""
    folders = match_folders(spec, find_models_dir(pool.settings))
    docs = find_model_docs({"name": spec}, pool)
    is_named = bool(docs) or any(folder.path.name == spec for folder in folders)
    if is_model_id(spec) and not is_named:
        docs = find_model_docs({"model_id": {"$regex": f"^{spec}"}}, pool)
    at = {folder.model_id: folder for folder in folders}
    by_id = {doc.model_id: doc for doc in docs}
    return [
        KnownModel(model_id, by_id[model_id].name if model_id in by_id else at[model_id].name, at.get(model_id), doc)
        for model_id, doc in ((model_id, by_id.get(model_id)) for model_id in {**at, **by_id})
    ]


def _know(folder: ModelFolder) -> KnownModel:
    return KnownModel(folder.model_id, folder.name, folder)


def _find_bundled(model_id: str) -> ModelFolder:
    for folder in list_model_folders():
        if folder.model_id == model_id:
            return folder
    raise ModelError(
        f"model {model_id!r} is neither registered nor bundled; run `e3relax models list`, or register its folder "
        "with `e3relax models import FOLDER`"
    )
