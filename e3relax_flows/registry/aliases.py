"""Move aliases: promote a model, or roll back to the previous one; every move is recorded with its reason."""

from __future__ import annotations

import logging

from e3relax_flows.core.errors import ModelError, StoreError
from e3relax_flows.core.model_folders import ALIASES, MODEL_NAME, find_model, is_model_id, list_model_paths
from e3relax_flows.registry.location import find_models_dir
from e3relax_flows.registry.models import fetch_model
from e3relax_flows.registry.store import find_alias, find_model_docs, open_alias_store
from e3relax_flows.schemas.models import AliasDoc, AliasMove
from e3relax_flows.stores.opening import describe_store, dump_document, write_documents
from e3relax_flows.stores.pool import SettingsLike, StorePool, open_pool

NEVER_MOVED = -1  # version of an alias without document


logger = logging.getLogger(__name__)


def promote(
    name: str,
    model_id: str,
    reason: str,
    gate_id: str | None = None,
    expected: int | None = None,
    settings: SettingsLike = None,
) -> AliasDoc:
    """Move an alias to a model; nothing changes if it means that model already.

    Parameters
    ----------
    name
        The alias; a new one is made.
    model_id
        Whole id of a registered or bundled model; its files are verified.
    reason
        Why, for the history.
    gate_id
        The gate that the model passed.
    expected
        Version that the alias must have, -1 for one that was never moved; None: any.
    settings
        Where the registry is: settings, or a `Workspace`. None: read now.

    Raises
    ------
    ModelError
        When the model is not registered, its files are not what was registered, or the name is a model's.
    StoreError
        When the alias has another version than expected or is moved by another process at the same time.

    Examples
    --------
    A name of your own for the bundled model; `Predictor.load("oxides")` then loads it:

    >>> import tempfile
    >>> from pathlib import Path
    >>> from e3relax_flows import isolate_stores, promote, resolve_model
    >>> settings = isolate_stores(Path(tempfile.mkdtemp()))  # of all that follows
    >>> alias = promote("oxides", resolve_model("default").model_id, "the bundled model, to begin with")
    >>> alias.version, alias.history[0].reason
    (1, 'the bundled model, to begin with')
    """
    with open_pool(settings) as pool:
        document, is_move = plan_promotion(name, model_id, reason, gate_id, expected, pool)
        if is_move:
            _store(document, pool)
    return document


def plan_promotion(
    name: str,
    model_id: str,
    reason: str,
    gate_id: str | None,
    expected: int | None,
    settings: SettingsLike,
) -> tuple[AliasDoc, bool]:
    """The alias as a promotion would leave it, and whether it would move; else as `promote`."""
    _check_reason(reason)
    with open_pool(settings) as pool:
        _check_alias_name(name, pool)
        fetch_model(model_id, pool)
        current = find_alias(name, pool)
    if current is not None and current.model_id == model_id:
        return current, False
    version = current.version if current else NEVER_MOVED
    if expected is not None and expected != version:
        raise StoreError(
            f"alias {name!r} has moved since it was looked up: it was expected at version {expected} and is at "
            f"{version}{f', meaning {current.model_id}' if current else ''}; compare with the model that it means "
            f"now, see `e3relax models history --alias {name}`"
        )
    previous = current.model_id if current else _find_base(name)
    move = AliasMove(model_id=model_id, previous_id=previous, reason=reason, gate_id=gate_id)
    return _move(name, current, move), True


def rollback(name: str, reason: str, settings: SettingsLike = None) -> AliasDoc:
    """Move an alias back to the model before the last promotion that is not rolled back.

    A repeated rollback goes further back; the alias default ends at the bundled model, others at their first model.

    Raises
    ------
    ModelError
        When there is nothing to go back to, or the files of the model before are not what was registered.
    StoreError
        When another process moves the alias at the same time.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from e3relax_flows import isolate_stores, promote, resolve_model, rollback
    >>> settings = isolate_stores(Path(tempfile.mkdtemp()))  # of all that follows
    >>> model_id = resolve_model("default").model_id
    >>> _ = promote("default", model_id, "measured on our oxides")
    >>> alias = rollback("default", "it harmed layered oxides")
    >>> alias.version, alias.history[-1].rollback, alias.model_id == model_id
    (2, True, True)
    """
    with open_pool(settings) as pool:
        document = plan_rollback(name, reason, pool)
        _store(document, pool)
    return document


def plan_rollback(name: str, reason: str, settings: SettingsLike) -> AliasDoc:
    """The alias as a rollback would leave it; parameters and errors are those of `rollback`."""
    _check_reason(reason)
    current = find_alias(name, settings)
    if current is None:
        means = f"it means the bundled model {ALIASES[name]}" if name in ALIASES else "there is no such alias"
        raise ModelError(f"alias {name!r} was never moved, {means}; promote a model with `e3relax models promote`")
    stack = list_active(current)
    if not stack:
        raise ModelError(
            f"alias {name!r} is rolled back to the bundled model already, which was its first; see "
            f"`e3relax models history --alias {name}`"
        )
    before = stack[-2].model_id if len(stack) > 1 else _find_base(name)
    if before is None:
        raise ModelError(
            f"alias {name!r} has meant no other model before {current.model_id}; promote another one with "
            f"`e3relax models promote MODEL --alias {name}`"
        )
    fetch_model(before, settings)
    return _move(name, current, AliasMove(model_id=before, previous_id=current.model_id, reason=reason, rollback=True))


def list_active(alias: AliasDoc) -> list[AliasMove]:
    """The promotions that are not rolled back, oldest first; the last one is the model of the alias."""
    stack: list[AliasMove] = []
    for move in alias.history:
        stack = stack[:-1] if move.rollback else [*stack, move]
    return stack


def _find_base(name: str) -> str | None:
    """What an alias means before any promotion."""
    return find_model(ALIASES[name]).model_id if name in ALIASES else None


def _move(name: str, current: AliasDoc | None, move: AliasMove) -> AliasDoc:
    history = [*(current.history if current else []), move]
    return AliasDoc(name=name, model_id=move.model_id, history=history, version=len(history))


def _store(document: AliasDoc, pool: StorePool) -> None:
    """Write the next version of an alias, unless another process has written it."""
    store = pool.get(open_alias_store)
    if not store.ensure_index(store.key, unique=True):
        raise StoreError(
            f"{describe_store(store)} has no unique index on {store.key!r}, so two could move an alias at once; "
            "let its user make indexes, and remove doubled aliases"
        )
    before = {"version": document.version - 1} if document.version > 1 else None
    if write_documents(store, [dump_document(document)], before) != 1:
        raise StoreError(
            f"alias {document.name!r} was moved by another process at the same time, and not by this command; see "
            f"`e3relax models history --alias {document.name}` and decide again"
        )
    move = document.history[-1]
    how = "rolled back" if move.rollback else "promoted"
    logger.info("alias %s: %s -> %s, %s (%s)", document.name, move.previous_id, move.model_id, how, move.reason)


def _check_reason(reason: str) -> None:
    if not reason.strip():
        raise ModelError("a move of an alias needs its reason, for those who read the history; give --reason TEXT")


def _check_alias_name(name: str, pool: StorePool) -> None:
    """Refuse an alias that could be mistaken for a model."""
    if not MODEL_NAME.fullmatch(name) or is_model_id(name):
        raise ModelError(f"{name!r} cannot be an alias; use letters, digits, '.', '_', '-', and not a model's id")
    names = {path.name for path in list_model_paths(find_models_dir(pool.settings))}
    if name in names or find_model_docs({"name": name}, pool):
        raise ModelError(f"{name!r} is the name of a model and cannot be an alias; choose another name")
