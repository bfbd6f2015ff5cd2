"""`e3relax screen`: predict candidates, relax them with an engine, and say what it saved."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from e3relax_flows.cli import console
from e3relax_flows.cli.options import (
    ConstrainOption,
    DeviceOption,
    ModelOption,
    OutOption,
    PassesOption,
    SubmitOption,
    SymmetryOption,
    build_predict_options,
)
from e3relax_flows.core.errors import ConfigError

if TYPE_CHECKING:
    from e3relax_flows.cli.screenconfig import ScreenConfig
    from e3relax_flows.core.settings import E3RelaxSettings
    from e3relax_flows.data.reading import ReadItem
    from e3relax_flows.flows.screen import ScreenMaker
    from e3relax_flows.schemas.screens import CandidateRow

CONFIG_ENDINGS = (".yaml", ".yml")


def screen(
    inputs: Annotated[
        list[str], typer.Argument(help="Structures (files, folders), or one YAML file like configs/screen.yaml.")
    ],
    engine: Annotated[str | None, typer.Option(help="What to relax with; see `e3relax doctor`.")] = None,
    control: Annotated[
        float | None,
        typer.Option(help="Chance of each to start from its initial structure, to measure savings."),
    ] = None,
    model: ModelOption = None,
    device: DeviceOption = None,
    passes: PassesOption = None,
    symmetry: SymmetryOption = None,
    constrain: ConstrainOption = None,
    on_refuse: Annotated[
        str | None, typer.Option(help="After a refused prediction.", metavar="initial|skip|fail")
    ] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Try failed relaxations again.")] = False,
    out: OutOption = None,
    submit: SubmitOption = "local",
) -> None:
    """Predict candidates, relax each once with an engine, and show what was saved.

    What is in the stores is not computed again. With --submit fireworks or remote the jobs are left to the workers
    there; typed twice, it is submitted once. Exit code 1 when candidates failed.
    """
    options = {"passes": passes, "symmetry": symmetry, "constrain": constrain}
    changes: dict[str, Any] = {
        "engine": engine,
        "control": control,
        "model": model,
        "device": device,
        "on_refuse": on_refuse,
        "retry_failed": retry_failed or None,
        "out": out,
    }
    if any(value is not None for value in options.values()):
        changes["options"] = build_predict_options(passes, symmetry, constrain)
    config = _load_config(inputs, changes)
    raise typer.Exit(_run(config, submit))


def _load_config(inputs: list[str], changes: dict[str, Any]) -> ScreenConfig:
    from pathlib import Path

    from e3relax_flows.cli.screenconfig import load_screen_config, make_screen_config

    configs = [item for item in inputs if item.endswith(CONFIG_ENDINGS)]
    if configs and len(inputs) > 1:
        raise ConfigError(f"give either structures or one configuration file, not both ({', '.join(inputs)})")
    if configs:
        return load_screen_config(Path(configs[0]), **changes)
    if changes["engine"] is None:
        from e3relax_flows.engines.registry import list_engines

        names = ", ".join(info.name for info in list_engines())
        raise ConfigError(f"--engine is needed; known: {names}")
    fields = {key: value for key, value in changes.items() if value is not None}
    return make_screen_config({"inputs": inputs, **fields}, "options")


def _run(config: ScreenConfig, where: str) -> int:
    from e3relax_flows.cli.screenrun import has_errors, report_screen, run_screen, show_screen
    from e3relax_flows.core.settings import load_settings
    from e3relax_flows.data.ranking import rank_structures
    from e3relax_flows.engines.registry import get_engine, list_engines
    from e3relax_flows.flows.screen import ScreenMaker
    from e3relax_flows.jobs.predict import PrerelaxMaker

    settings = load_settings()
    hint = next((info.hint for info in list_engines() if info.name == config.engine and not info.available), None)
    if hint and where == "local":
        console.err.print(f"engine {config.engine} may not run here: {hint}", style="yellow", soft_wrap=True)
    maker = ScreenMaker(
        name=config.name,
        prerelax=PrerelaxMaker(model=_find_folder(config.model), device=config.device, options=config.options),
        engine=get_engine(config.engine, **config.engine_settings),
        on_refuse=config.on_refuse,
        control=config.control,
        paired_controls=config.paired_controls,
        seed=config.seed,
        chunk_size=config.chunk_size,
        retry_failed=config.retry_failed,
        order="change" if config.ranking is not None and config.ranking.by == "change" else "given",
    )
    with console.hide_warnings():
        items = list(config.read(settings))
        good = [item for item in items if item.structure is not None]
        good = [good[place] for place in rank_structures(good, config.ranking)]
    if not good:
        reasons = "; ".join(f"{item.id}: {item.error}" for item in items[:5])
        places = ", ".join([*config.inputs, *(source.type for source in config.sources)])
        raise ConfigError(f"no structure could be read from {places} ({reasons or 'nothing there'})")
    if where != "local":
        for item in (item for item in items if item.structure is None):
            console.print_error(f"{item.id}: {item.error}")
        _submit(maker, good, settings, where)
        return int(len(good) < len(items))
    report = run_screen(maker, [item.structure for item in good], [item.id for item in good], settings, config.out)
    if len(good) < len(items):
        rows = {row.id: row for row in report.screen.candidates}
        report.screen.candidates = [rows.get(item.id) or _list_unread(item.id, str(item.error)) for item in items]
        report = report_screen(report.screen, settings, config.out)
    show_screen(report)
    return int(has_errors(report.screen))


def _submit(maker: ScreenMaker, items: list[ReadItem], settings: E3RelaxSettings, where: str) -> None:
    """Leave a screen to the workers of another place."""
    from e3relax_flows.cli.submission import submit_shown
    from e3relax_flows.core.errors import EngineError
    from e3relax_flows.data.registry import resolve_model
    from e3relax_flows.jobs.predict import DEFAULT_MODEL

    model = maker.prerelax.model
    resolve_model(settings.MODEL if model == DEFAULT_MODEL else model, settings)
    structures = [item.structure for item in items if item.structure is not None]
    samples = []
    with console.hide_warnings():
        for structure in structures[:5]:  # one that the engine takes shows what its jobs need
            try:
                samples = [maker.engine.make(structure)]
                break
            except EngineError:
                continue
    submit_shown(maker.make(structures, [item.id for item in items]), where, settings, samples)


def _find_folder(model: str) -> str:
    """The absolute path of a model's folder, since jobs run in folders of their own; other names as they are."""
    from pathlib import Path

    return str(Path(model).absolute()) if Path(model).is_dir() else model


def _list_unread(name: str, error: str) -> CandidateRow:
    """Row of an input that could not be read."""
    from e3relax_flows.schemas.predictions import Reason, Verdict
    from e3relax_flows.schemas.screens import CandidateRow, CandidateState

    return CandidateRow(
        id=name, state=CandidateState.ERROR, verdict=Verdict.ERROR, reasons=[Reason.UNREADABLE], message=error
    )
