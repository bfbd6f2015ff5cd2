"""`e3relax screen`: predict candidates, relax them with an engine, and report the savings."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Annotated, Any

import typer

from e3relax_flows.cli.groups import LimitGroup, PredictionGroup, spread
from e3relax_flows.cli.options import (
    DeviceOption,
    DryRunOption,
    EngineSettingOption,
    JsonOption,
    ModelOption,
    OutOption,
    SubmitOption,
    complete_engine,
    parse_engine_settings,
    split_settings,
)
from e3relax_flows.core.errors import ConfigError
from e3relax_flows.report import console

if TYPE_CHECKING:
    from e3relax_flows.ledger.workspace import Workspace
    from e3relax_flows.places.kinds import PlaceKind
    from e3relax_flows.schemas.screens import ScreenConfig
    from e3relax_flows.screening.maker import ScreenMaker

CONFIG_ENDINGS = (".yaml", ".yml")
COMMANDS = ("run", "status", "resume", "cancel", "recover")  # options that may be combined with inputs


@dataclass(frozen=True, kw_only=True)
class ScreenGroup:
    """How to screen; what is not typed is as the file of the screen or its defaults have it."""

    engine: Annotated[
        str | None,
        typer.Option(
            help="Engine: a name, such as chgnet (see `e3relax doctor`), or a maker as module:Class.",
            metavar="ENGINE",
            autocompletion=complete_engine,
        ),
    ] = None
    engine_setting: EngineSettingOption = None
    control: Annotated[
        float | None,
        typer.Option(
            help="Fraction of candidates also relaxed from the initial structure, to measure savings; default 0.1."
        ),
    ] = None
    arm: Annotated[
        list[str] | None,
        typer.Option(
            help="A start and the chance of each to be relaxed from there, too: initial, predicted or polished; "
            "repeatable, and all that there are.",
            metavar="START=FRACTION",
        ),
    ] = None
    prerelax: Annotated[
        str | None,
        typer.Option(help="none: start at the initial structures; predictions serve the arms only.", metavar="none"),
    ] = None
    model: ModelOption = None
    device: DeviceOption = None
    how: PredictionGroup
    on_refuse: Annotated[str | None, typer.Option(help="After a refused prediction.", metavar="initial|skip|fail")] = (
        None
    )
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Try failed relaxations again.")] = False
    out: OutOption = None
    limits: LimitGroup
    dry_run: DryRunOption = False
    submit: SubmitOption = "local"
    as_json: JsonOption = False

    def list_changes(self, settings: list[str]) -> dict[str, Any]:
        """Fields of `ScreenConfig` beside the limits, None where nothing was typed; `settings` are of the engine."""
        return {
            "engine": self.engine,
            "engine_settings": parse_engine_settings(settings) or None,
            "control": self.control,
            "arms": _parse_arms(self.arm or []) or None,
            "prerelax": self.prerelax,
            "model": self.model,
            "device": self.device,
            "options": self.how.parse() or None,
            "on_refuse": self.on_refuse,
            "retry_failed": self.retry_failed or None,
            "out": self.out,
        }


@spread
def screen(
    inputs: Annotated[
        list[str], typer.Argument(help="Structures (files, folders), or one YAML file like configs/screen.yaml.")
    ],
    given: ScreenGroup,
) -> None:
    """Predict candidates, relax each once with an engine, and show the savings.

    Stored results are not computed again; after an interruption the same command continues. With --submit fireworks or
    remote the workers there run the jobs; a repeated command submits nothing twice. Exit code 1: candidates failed.
    """
    inputs, words = split_settings(inputs, given.engine_setting)
    config = _load_config(inputs, given.list_changes(words), given.limits.list_given())
    raise typer.Exit(_run(config, given.submit, given.dry_run, given.as_json))


def _parse_arms(words: list[str]) -> dict[str, float]:
    """Fractions by start."""
    if not words:
        return {}
    from e3relax_flows.prerelax.starts import ARMS

    arms = {}
    for word in words:
        name, _, text = word.partition("=")
        if name.strip() not in ARMS:
            raise ConfigError(f"--arm {word!r} does not name a start; known: {', '.join(ARMS)}")
        try:
            arms[name.strip()] = float(text)
        except ValueError as error:
            raise ConfigError(f"--arm {word!r} has no number; write START=FRACTION, such as predicted=0.1") from error
    return arms


def _load_config(inputs: list[str], changes: dict[str, Any], limits: dict[str, Any]) -> ScreenConfig:
    """The configuration of a file or of options; options win."""
    config = _read_config(inputs, changes)
    return config.model_copy(update={"limits": config.limits.model_copy(update=limits)})


def _read_config(inputs: list[str], changes: dict[str, Any]) -> ScreenConfig:
    from pathlib import Path

    from e3relax_flows.cli.config_files import load_screen_config, make_screen_config

    configs = [item for item in inputs if item.endswith(CONFIG_ENDINGS)]
    if configs and len(inputs) > 1:
        raise ConfigError(f"give either structures or one configuration file, not both ({', '.join(inputs)})")
    if configs:
        return load_screen_config(Path(configs[0]), **changes)
    if changes["engine"] is None:
        nearest = get_close_matches(inputs[0], COMMANDS, n=1)
        if nearest and not Path(inputs[0]).exists():
            raise ConfigError(f"{inputs[0]!r} is not a file or folder; did you mean `e3relax screen {nearest[0]}`?")
        from e3relax_flows.engines.registry import list_engines

        names = ", ".join(info.name for info in list_engines())
        raise ConfigError(f"--engine is needed; known: {names}")
    fields = {key: value for key, value in changes.items() if value is not None}
    return make_screen_config({"inputs": inputs, **fields}, "options")


def _run(config: ScreenConfig, where: str, dry_run: bool, as_json: bool) -> int:
    from e3relax_flows.candidates.sources import read_candidates
    from e3relax_flows.cli.submission import submit_candidates
    from e3relax_flows.engines.registry import get_engine, list_engines
    from e3relax_flows.ledger.workspace import open_workspace
    from e3relax_flows.places.kinds import find_kind
    from e3relax_flows.places.submission import check_place
    from e3relax_flows.prerelax.predict import PrerelaxMaker
    from e3relax_flows.report.terminal import show_screen
    from e3relax_flows.screening.maker import ScreenMaker
    from e3relax_flows.screening.run import has_errors, run_candidates

    place = find_kind(check_place(where))
    name = config.engine if isinstance(config.engine, str) else config.engine.maker
    hint = next((info.hint for info in list_engines() if info.name == name and not info.available), None)
    if hint and place.is_here:
        console.err.print(f"engine {name} may not run here: {hint}", style="yellow", soft_wrap=True)
    maker = ScreenMaker(
        name=config.name,
        prerelax=PrerelaxMaker(model=_find_folder(config.model), device=config.device, options=config.options),
        engine=get_engine(config.engine, **config.engine_settings),
        on_refuse=config.on_refuse,
        control=config.control,
        arms=None if config.arms is None else {str(arm): fraction for arm, fraction in config.arms.items()},
        served="initial" if config.prerelax == "none" else "predicted",
        paired_controls=config.paired_controls,
        seed=config.seed,
        chunk_size=config.chunk_size,
        retry_failed=config.retry_failed,
        one_launch=config.one_launch,
        order="change" if config.ranking is not None and config.ranking.by == "change" else "given",
    )
    with open_workspace() as workspace:
        if dry_run:
            return _print_plan(config, maker, workspace, place, as_json)
        items = read_candidates(config, workspace.settings)
        if not place.is_here:
            return submit_candidates(maker, items, config, workspace, where, as_json)
        report = run_candidates(maker, items, workspace.settings, config.out, config)
    show_screen(report, as_json)
    return int(has_errors(report.screen))


def _print_plan(config: ScreenConfig, maker: ScreenMaker, workspace: Workspace, place: PlaceKind, as_json: bool) -> int:
    """Read the candidates, and print what the screen would do."""
    from e3relax_flows.candidates.sources import read_candidates
    from e3relax_flows.candidates.spool import CandidateList
    from e3relax_flows.registry.location import needs_registry
    from e3relax_flows.screening.register import name_screen_model, resolve_screen_model

    name = name_screen_model(maker, workspace.settings)
    if config.options.second_opinion is not None or not needs_registry(name, workspace.settings):
        resolve_screen_model(maker, workspace, place.is_here)  # the registry is read for second opinions only
    with console.hide_warnings(), CandidateList() as candidates:
        candidates.add(console.show_notes(read_candidates(config, workspace.settings)))
        counts = candidates.count()
        for name, error in candidates.errors:
            console.print_error(error if name in error else f"{name}: {error}")
    chunks = -(-counts["candidates"] // maker.chunk_size)
    budget = config.limits.candidates
    at_most = counts["candidates"] if budget is None else min(budget, counts["candidates"])
    arms = dict(maker.rules.arms)
    drawn = " and ".join(f"{fraction:.0%} from their {name}" for name, fraction in arms.items()) or "none from another"
    if as_json:
        plan: dict[str, Any] = {
            "prediction_jobs": chunks,
            "relaxed_at_most": at_most,
            "control": arms.get("initial", 0.0),
        }
        plan |= {"arms": arms, "served": maker.served, "place": place.name}
        engine = {"engine": maker.engine.name, "model": maker.prerelax.model}
        console.print_json({"dry_run": True, **counts, **plan, **engine})
        return int(counts["unreadable"] > 0)
    lines = [
        f"{counts['candidates']} candidates; {counts['equal_ids']} duplicates left out, "
        f"{counts['unreadable']} unreadable",
        f"{chunks} prediction job{'s' * (chunks != 1)} of up to {maker.chunk_size} structures, "
        f"model {maker.prerelax.model}",
        f"at most {at_most} candidates relaxed with {maker.engine.name} from their {maker.served} structure, about "
        f"{drawn} one, too",
        f"place: {place.name}; nothing was done: that was a dry run"
        + ("" if place.is_here else f"; {place.name} and the stores were not checked: use `e3relax doctor`"),
    ]
    for line in lines:
        console.out.print(line, highlight=False, soft_wrap=True, markup=False)
    return int(counts["unreadable"] > 0)


def _find_folder(model: str) -> str:
    """The absolute path of a model's folder, since jobs run in folders of their own; other names unchanged."""
    from pathlib import Path

    return str(Path(model).absolute()) if Path(model).is_dir() else model
