"""Options that several commands share, and their conversion into documents."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from e3relax_flows.core.errors import ConfigError

if TYPE_CHECKING:
    from e3relax_flows.schemas.predictions import PredictOptions

ModelOption = Annotated[
    str | None, typer.Option(help="Model: alias, name, id or folder; see `e3relax models list`.", metavar="MODEL")
]


def complete_words(*words: str) -> Callable[[str], list[str]]:
    """Shell completion of an option with fixed words."""
    return lambda incomplete: [word for word in words if word.startswith(incomplete)]


def complete_engine(incomplete: str) -> list[str]:
    """Completion of the name of an engine."""
    from e3relax_flows.engines.registry import list_engines

    return [info.name for info in list_engines() if info.name.startswith(incomplete)]


def complete_potential(incomplete: str) -> list[str]:
    """Completion of the name of an engine that is one potential."""
    from e3relax_flows.engines.registry import list_potentials

    return [name for name in list_potentials() if name.startswith(incomplete)]


DeviceOption = Annotated[str | None, typer.Option(help="torch device: auto, cpu, cuda, cuda:1.", metavar="DEVICE")]
PassesOption = Annotated[int | None, typer.Option(help="Largest number of applications of the network.", min=1)]
SymmetryOption = Annotated[
    str | None,
    typer.Option(
        help="keep the space group of the input, or leave the atoms free.",
        metavar="keep|free",
        autocompletion=complete_words("keep", "free"),
    ),
]
ConstrainOption = Annotated[
    list[str] | None,
    typer.Option(
        help="fix-cell, free=shape (volume stays), free=volume (shape stays), vacuum-a|b|c, fix-atoms=0,1,5-8 (sites "
        "counted from 0); repeatable.",
        metavar="CONSTRAINT",
    ),
]
SecondOpinionOption = Annotated[
    str | None,
    typer.Option(
        help="Potential that judges each prediction by its energies, such as chgnet; not the engine itself.",
        metavar="POTENTIAL",
        autocompletion=complete_potential,
    ),
]
PolishOption = Annotated[
    str | None,
    typer.Option(
        help="Steps of the second opinion's potential from an accepted prediction; auto: as calibrated.",
        metavar="auto|N|0",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on stdout and nothing else.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Report what would be done, and do nothing.")]
SubmitOption = Annotated[
    str,
    typer.Option(
        help="Where the jobs run.",
        metavar="local|fireworks|remote",
        autocompletion=complete_words("local", "fireworks", "remote"),
    ),
]
EngineSettingOption = Annotated[
    list[str] | None,
    typer.Option(help="KEY=VALUE, a setting of the engine or field of its maker; repeatable.", metavar="KEY=VALUE"),
]
BudgetOption = Annotated[int | None, typer.Option(help="Largest number of candidates to relax.", min=0, metavar="N")]
CoreHoursOption = Annotated[
    float | None, typer.Option(help="Core hours of relaxations after which none begins.", min=0, metavar="HOURS")
]
InFlightOption = Annotated[
    int | None, typer.Option(help="Candidates at the workers at the same time; the rest follow.", min=1, metavar="N")
]
OutOption = Annotated[Path | None, typer.Option(help="Folder to write into.", file_okay=False)]

SETTING = re.compile(r"([A-Za-z_][\w.]*)=(.*)", re.DOTALL)
CONSTRAINTS = "fix-cell, free=shape, free=volume, vacuum-a, vacuum-b, vacuum-c, fix-atoms=0,1,5-8"


def parse_constraints(words: list[str]) -> dict[str, Any]:
    """Turn words of `--constrain` into fields of `Constraints`.

    Raises
    ------
    ConfigError
        When a word is unknown, or two name different vacuum axes.
    """
    fields: dict[str, Any] = {}
    for word in words:
        if word == "fix-cell":
            fields["fix_cell"] = True
        elif match := re.fullmatch(r"free=(all|shape|volume|sites)", word):
            if fields.get("free", match[1]) != match[1]:
                raise ConfigError(f"--constrain free={fields['free']} and {word} are two; give one")
            fields["free"] = match[1]
        elif match := re.fullmatch(r"vacuum-([abc])", word):
            if fields.get("vacuum_axis", match[1]) != match[1]:
                raise ConfigError(f"--constrain vacuum-{fields['vacuum_axis']} and {word}: there is one vacuum axis")
            fields["vacuum_axis"] = match[1]
        elif match := re.fullmatch(r"fix-atoms=(\d+(?:-\d+)?(?:,\d+(?:-\d+)?)*)", word):
            fields["fixed_atoms"] = tuple(sorted({*fields.get("fixed_atoms", ()), *_expand_ranges(match[1])}))
        else:
            raise ConfigError(f"--constrain {word!r} is unknown; known: {CONSTRAINTS}")
    return fields


def parse_engine_settings(words: list[str]) -> dict[str, Any]:
    """Turn words KEY=VALUE of `--engine-setting` into settings; dots in a key lead into groups, values are YAML.

    Raises
    ------
    ConfigError
        When a word is not KEY=VALUE, or one key is a value and a group.
    """
    import yaml

    settings: dict[str, Any] = {}
    for word in words:
        match = SETTING.fullmatch(word)
        if match is None:
            raise ConfigError(f"--engine-setting {word!r} is not KEY=VALUE, such as fmax=0.05")
        *groups, last = match[1].split(".")
        place = settings
        for group in groups:
            place = place.setdefault(group, {})
            if not isinstance(place, dict):
                raise ConfigError(f"--engine-setting {word!r}: {group} is a value and a group of settings")
        try:
            place[last] = yaml.safe_load(match[2])
        except yaml.YAMLError as error:
            raise ConfigError(f"--engine-setting {word!r}: {match[2]!r} is not a value ({error})") from error
    return settings


def split_settings(inputs: list[str], settings: list[str] | None) -> tuple[list[str], list[str]]:
    """Inputs and settings: further KEY=VALUE after one --engine-setting are moved from inputs to settings."""
    if not settings:
        return inputs, []
    more = [word for word in inputs if SETTING.fullmatch(word) and not Path(word).exists()]
    return [word for word in inputs if word not in more], [*settings, *more]


def build_predict_options(
    passes: int | None,
    symmetry: str | None,
    constrain: list[str] | None,
    second_opinion: str | None = None,
    polish: str | None = None,
) -> PredictOptions:
    """Options of a prediction; None keeps the default.

    Raises
    ------
    ConfigError
        When a word or a number cannot be used.
    """
    from pydantic import ValidationError

    from e3relax_flows.schemas.predictions import PredictOptions

    try:
        return PredictOptions.model_validate(parse_predict_options(passes, symmetry, constrain, second_opinion, polish))
    except ValidationError as error:
        raise ConfigError(describe_validation(error)) from error


def parse_predict_options(
    passes: int | None,
    symmetry: str | None,
    constrain: list[str] | None,
    second_opinion: str | None,
    polish: str | None,
) -> dict[str, Any]:
    """Those fields of the options of a prediction that were typed; None is left out.

    Raises
    ------
    ConfigError
        When a word cannot be used.
    """
    fields: dict[str, Any] = {}
    if constrain:
        fields["constraints"] = parse_constraints(constrain)
    if passes is not None:
        fields["passes"] = passes
    if symmetry is not None:
        fields["symmetry"] = symmetry
    if second_opinion is not None:
        from e3relax_flows.engines.registry import get_potential

        get_potential(second_opinion)  # an unknown name is refused before anything is read
        fields["second_opinion"] = second_opinion
    if polish is not None:
        if polish != "auto" and not re.fullmatch("[0-9]+", polish):
            raise ConfigError(f"--polish {polish!r} is not auto, 0 or a number of steps, such as --polish 5")
        fields["polish"] = polish if polish == "auto" else int(polish)
    return fields


def describe_validation(error: Any, known: Iterable[str] = ()) -> str:
    """A pydantic error on one line: where, what, the value that was given, and the nearest of the `known` keys."""
    parts = []
    for item in error.errors():
        place = ".".join(map(str, item["loc"]))
        if item["type"] == "value_error" and isinstance(item["input"], dict):  # of several keys: the words name them
            parts.append(f"{place}: {item['ctx']['error']}" if place else str(item["ctx"]["error"]))
            continue
        place = place or "the whole"
        value = "" if item["type"] == "missing" else f" (got {item['input']!r})"
        nearest = get_close_matches(place, list(known), n=1) if item["type"] == "extra_forbidden" else []
        hint = f", did you mean {nearest[0]}?" if nearest else ""
        parts.append(f"{place}: {item['msg']}{value}{hint}")
    return "; ".join(parts)


def _expand_ranges(text: str) -> list[int]:
    numbers: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        numbers += range(int(first), int(last or first) + 1)
    return numbers
