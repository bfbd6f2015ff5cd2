"""Options in groups: a command takes a dataclass of them as one parameter, and `spread` shows each by itself."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any, get_type_hints

from e3relax_flows.cli.options import (
    BudgetOption,
    ConstrainOption,
    CoreHoursOption,
    DryRunOption,
    InFlightOption,
    JsonOption,
    PassesOption,
    PolishOption,
    SecondOpinionOption,
    SymmetryOption,
    build_predict_options,
    parse_predict_options,
)

if TYPE_CHECKING:
    from e3relax_flows.schemas.predictions import PredictOptions


@dataclass(frozen=True)
class PredictionGroup:
    """How to predict."""

    passes: PassesOption = None
    symmetry: SymmetryOption = None
    constrain: ConstrainOption = None
    second_opinion: SecondOpinionOption = None
    polish: PolishOption = None

    def parse(self) -> dict[str, Any]:
        """Fields of `PredictOptions` that were typed; errors are those of `parse_predict_options`."""
        return parse_predict_options(self.passes, self.symmetry, self.constrain, self.second_opinion, self.polish)

    def build(self) -> PredictOptions:
        """Options of a prediction; errors are those of `build_predict_options`."""
        return build_predict_options(self.passes, self.symmetry, self.constrain, self.second_opinion, self.polish)


@dataclass(frozen=True)
class LimitGroup:
    """How much of a screen is relaxed."""

    budget: BudgetOption = None
    core_hours: CoreHoursOption = None
    max_in_flight: InFlightOption = None

    def list_given(self) -> dict[str, Any]:
        """Fields of `ScreenLimits` that were typed."""
        limits = {"candidates": self.budget, "core_hours": self.core_hours, "max_in_flight": self.max_in_flight}
        return {name: value for name, value in limits.items() if value is not None}


@dataclass(frozen=True)
class AnswerGroup:
    """What is done and printed."""

    dry_run: DryRunOption = False
    as_json: JsonOption = False


def spread(command: Callable[..., None]) -> Callable[..., None]:
    """The command as typer reads it: each field of a dataclass among its parameters, in order, is an option."""
    hints = get_type_hints(command, include_extras=True)
    own = inspect.signature(command).parameters.values()
    shown = [one for parameter in own for one in _spread(parameter.name, hints[parameter.name], parameter.default)]

    @wraps(command)
    def call(**words: Any) -> None:
        command(**{parameter.name: _collect(parameter.name, hints[parameter.name], words) for parameter in own})

    call.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in shown}
    return call


def _spread(name: str, kind: Any, default: Any) -> Iterator[inspect.Parameter]:
    """The parameters that a parameter or field stands for."""
    if not is_dataclass(kind):
        yield inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
        return
    hints = get_type_hints(kind, include_extras=True)
    for field in fields(kind):
        yield from _spread(field.name, hints[field.name], field.default)


def _collect(name: str, kind: Any, words: dict[str, Any]) -> Any:
    """The value of a parameter or field from what was typed."""
    if not is_dataclass(kind):
        return words[name]
    hints = get_type_hints(kind, include_extras=True)
    made: Any = kind
    return made(**{field.name: _collect(field.name, hints[field.name], words) for field in fields(kind)})
