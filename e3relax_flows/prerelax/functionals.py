"""Compare the functional of an engine with that of a model's predictions."""

from __future__ import annotations

import logging

from e3relax_flows.core.functionals import strip_u
from e3relax_flows.core.model_folders import ModelFolder, list_model_folders
from e3relax_flows.engines.base import Engine

PAGE = "docs/howto/functionals.md"

logger = logging.getLogger(__name__)


def warn_of_functional(engine: Engine, model: ModelFolder) -> None:
    """Log a warning where `compare_functionals` has a message."""
    if message := compare_functionals(engine, model):
        logger.warning("%s", message)


def compare_functionals(engine: Engine, model: ModelFolder) -> str | None:
    """The message for an engine that ends with another functional than the model predicts; None where both agree.

    U is ignored: PBE and PBE+U are one functional here. None, too, where one of both is not known.

    Examples
    --------
    >>> from e3relax_flows import get_engine
    >>> from e3relax_flows.core.model_folders import find_model
    >>> message = compare_functionals(get_engine("vasp-mp24"), find_model("small"))
    >>> message.partition(";")[0]
    'engine vasp-mp24 ends with r2SCAN, but model small predicts structures relaxed with PBE'
    >>> compare_functionals(get_engine("vasp-mp24"), find_model("small-r2scan")) is None
    True
    """
    try:
        name, label = engine.functional, engine.label
    except Exception as error:  # makers may do anything, and a warning must not stop a screen
        logger.info("functional of engine %s: %s: %s", engine.name, type(error).__name__, error)
        return None
    if name is None or not model.functionals:
        return None
    wanted, predicted = strip_u(name), _strip_all(model)
    if wanted in predicted or strip_u(label) in predicted:  # a model of a potential's labels names the potential
        return None
    fitting = next((other.name for other in list_model_folders() if wanted in _strip_all(other)), None)
    advice = f"use model {fitting}, or measure" if fitting else "measure"
    return (
        f"engine {engine.name} ends with {wanted}, but model {model.name} predicts structures relaxed with "
        f"{' or '.join(predicted)}; {advice} the savings with controls ({PAGE})"
    )


def _strip_all(model: ModelFolder) -> list[str]:
    return sorted({strip_u(name) for name in model.functionals})
