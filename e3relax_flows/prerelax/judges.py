"""Who may give a second opinion: any potential for which the model is calibrated, but the one that relaxes."""

from __future__ import annotations

from e3relax_flows.core.errors import ConfigError
from e3relax_flows.core.model_folders import ModelFolder
from e3relax_flows.engines.base import Engine
from e3relax_flows.engines.registry import get_potential
from e3relax_flows.predict.trust import check_opinion, check_polish
from e3relax_flows.schemas.predictions import PredictOptions


def check_judge(second_opinion: str | None, engine: Engine) -> None:
    """Refuse a potential as judge of the starts of its own relaxations.

    It accepts what it would have relaxed to by itself, and its relaxations then need few steps: the savings would say
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
            "its savings would only say that the potential agrees with itself; name another potential or leave it out"
        )


def check_calibrated(options: PredictOptions, folder: ModelFolder, is_local: bool = False) -> None:
    """See that a model can be asked with a second opinion and polish, before any job is.

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
        When the model is not calibrated for the potential, or for deciding how many steps it makes.
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
