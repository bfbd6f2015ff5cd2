"""Which model a command predicts with; the registry is loaded only if it exists."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from e3relax_flows.core.errors import StoreError
from e3relax_flows.report import console

if TYPE_CHECKING:
    from e3relax_flows.core.model_folders import ModelFolder
    from e3relax_flows.core.settings import E3RelaxSettings

PATIENCE_MS = 5000  # for a server of the registry, if the bundled model can be used


def choose_model(spec: str, settings: E3RelaxSettings) -> ModelFolder:
    """The verified folder of the requested model.

    Raises
    ------
    ModelError
        When the model is unknown, or its files are not those registered.
    StoreError
        When the registry cannot be read.
    """
    from e3relax_flows.core.model_folders import find_model
    from e3relax_flows.registry.location import find_models_dir, needs_registry

    if not needs_registry(spec, settings):  # the registry takes a second to load
        return find_model(spec, find_models_dir(settings))
    from e3relax_flows.registry.models import resolve_model

    return resolve_model(spec, settings)


def choose_usual_model(settings: E3RelaxSettings) -> ModelFolder:
    """The model of the settings; the bundled one, with a message, if none is named and the registry does not answer.

    Raises
    ------
    ModelError
        When the model is unknown, or its files are not those registered.
    StoreError
        When the settings name a model and the registry cannot be read.
    """
    from e3relax_flows.core.model_folders import ALIASES, find_model

    if settings.MODEL not in ALIASES:
        return choose_model(settings.MODEL, settings)
    hurried = settings.model_copy(update={"MODEL_STORE": shorten_patience(settings.MODEL_STORE)})
    try:
        return choose_model(settings.MODEL, hurried)
    except StoreError as error:
        folder = find_model(settings.MODEL)
        console.err.print(
            console.plain(f"the bundled model {folder.name} ({folder.model_id}) predicts, for {error}"),
            style="yellow",
            soft_wrap=True,
        )
        return folder


def shorten_patience(spec: dict[str, Any] | None) -> dict[str, Any] | None:
    """The description of a store, with a timeout of seconds instead of half a minute."""
    if spec is None or spec.get("type") != "MongoStore":
        return spec
    client = {"serverSelectionTimeoutMS": PATIENCE_MS, **spec.get("mongoclient_kwargs", {})}
    return {**spec, "mongoclient_kwargs": client}
