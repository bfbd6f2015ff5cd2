"""Who may give a second opinion: any potential but the one that relaxes."""

from __future__ import annotations

from e3relax_flows.core.errors import ConfigError
from e3relax_flows.engines.base import Engine
from e3relax_flows.engines.registry import get_potential


def check_judge(second_opinion: str | None, engine: Engine) -> None:
    """Refuse a potential as judge of the starts of its own relaxations.

    It accepts what it would have relaxed to by itself, and its relaxations then need few steps: the savings would say
    how well the potential agrees with itself.

    Raises
    ------
    ConfigError
        When engine and second opinion are the same weights.
    EngineError
        When the potential is unknown.
    """
    if second_opinion is None:
        return
    judge, own = get_potential(second_opinion).label, getattr(engine, "label", None)
    if judge == own:
        raise ConfigError(
            f"second_opinion is {second_opinion!r}, and engine {engine.name!r} relaxes with the same weights ({own}): "
            "its savings would only say that the potential agrees with itself; name another potential or leave it out"
        )
