"""Check second opinions: any potential for which the model is calibrated, except that of the engine."""

from __future__ import annotations

from e3relax_flows.core.errors import ConfigError
from e3relax_flows.core.model_folders import ModelFolder
from e3relax_flows.engines.base import Engine
from e3relax_flows.engines.registry import get_potential
from e3relax_flows.predict.trust import check_opinion, check_polish
from e3relax_flows.schemas.predictions import PredictOptions


def check_judge(second_opinion: str | None, engine: Engine) -> None:
    """Refuse a potential as judge of the starts of its own relaxations.

    It would accept its own minima, and its relaxations then need few steps: the savings would only show
    how well the potential agrees with itself.

    Raises
    ------
    ConfigError
        When engine and second opinion are the same weights, or may be: the engine is a calculator by its path, and
        the path leads into the potential's package.
    EngineError
        When the potential is unknown.
    """
    if second_opinion is None:
        return
    potential = get_potential(second_opinion)
    judge, own = potential.label, getattr(engine, "label", None)
    package = potential.family.package if potential.family else second_opinion.partition(".")[0]
    if own is not None and own.partition(".")[0] == package:
        raise ConfigError(
            f"second_opinion is {second_opinion!r}, and engine {engine.name!r} relaxes with a calculator of the same "
            f"package ({own}), whose weights are not known here; give the engine by the potential's name, such as "
            "potential=CHGNet, name another second opinion, or leave it out"
        )
    if judge == own:
        raise ConfigError(
            f"second_opinion is {second_opinion!r}, and engine {engine.name!r} relaxes with the same weights ({own}): "
            "its savings would only show that the potential agrees with itself; name another potential or leave it out"
        )


def check_calibrated(options: PredictOptions, folder: ModelFolder, is_local: bool = False) -> None:
    """Check that a model supports the second opinion and polish, before any job runs.

    Parameters
    ----------
    options
        Of the predictions.
    folder
        The model.
    is_local
        Whether the predictions are made here, where the potential must then be installed.

    Raises
    ------
    ConfigError
        When the model is not calibrated for the potential, or for its number of steps.
    EngineError, MissingDependencyError
        When the potential is unknown or not installed.
    """
    if options.second_opinion is None:
        return
    potential, calibration = get_potential(options.second_opinion), folder.config.get("calibration") or {}
    check_opinion(calibration, options.second_opinion, potential.label, folder.model_id)
    if options.polish == "auto":
        check_polish(calibration, potential.label, folder.model_id)
    if is_local:
        potential.check_installed()
