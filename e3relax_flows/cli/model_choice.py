"""Which model a command predicts with; the registry is loaded only where there is one to ask."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from e3relax_flows.core.errors import StoreError
from e3relax_flows.report import console

if TYPE_CHECKING:
    from e3relax_flows.core.model_folders import ModelFolder
    from e3relax_flows.core.settings import E3RelaxSettings

PATIENCE_MS = 5000  # for a server of the registry, where the bundled model will do


def choose_model(spec: str, settings: E3RelaxSettings) -> ModelFolder:
    """The verified folder of the model that was asked for.

    Raises
    ------
    ModelError
        When there is no such model, or its files are not what was registered.
    StoreError
        When the registry cannot be asked.
    """
    from e3relax_flows.core.model_folders import find_model
    from e3relax_flows.registry.location import find_models_dir, needs_registry

    if not needs_registry(spec, settings):  # the registry takes a second to load
        return find_model(spec, find_models_dir(settings))
    from e3relax_flows.registry.models import resolve_model

    return resolve_model(spec, settings)


def choose_usual_model(settings: E3RelaxSettings) -> ModelFolder:
    """The model of the settings; the bundled one, said so, where nobody named any and the registry does not answer.

    Raises
    ------
    ModelError
        When there is no such model, or its files are not what was registered.
    StoreError
        When the settings name a model and the registry cannot be asked.
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
    """The description of a store, of which MongoDB's driver gives a server up after seconds and not half a minute."""
    if spec is None or spec.get("type") != "MongoStore":
        return spec
    client = {"serverSelectionTimeoutMS": PATIENCE_MS, **spec.get("mongoclient_kwargs", {})}
    return {**spec, "mongoclient_kwargs": client}
