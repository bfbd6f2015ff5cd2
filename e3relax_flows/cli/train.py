"""`e3relax train`: train a network from a configuration file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from e3relax_flows.cli.options import DryRunOption
from e3relax_flows.core.errors import ModelError
from e3relax_flows.report.console import err, out, print_json

if TYPE_CHECKING:
    from e3relax_flows.schemas.training import TrainConfig
    from e3relax_flows.train.trainer import Trainer


def train(
    config: Annotated[Path, typer.Argument(help="YAML file; configs/train.yaml shows all keys.")],
    json_lines: Annotated[bool, typer.Option("--json", help="Print every line of the log as JSON.")] = False,
    export_only: Annotated[
        bool, typer.Option("--export-only", help="Export the present best weights of a run; do not train.")
    ] = False,
    dry_run: DryRunOption = False,
) -> None:
    """Train a network, and export its best weights as a model folder; run again to continue a stopped run.

    SIGTERM, SIGUSR1, Ctrl-C and the end of the walltime save the run; the exit code is then 75: start it again.
    On several GPUs: torchrun --nproc-per-node=N -m e3relax_flows.train CONFIG.
    """
    from e3relax_flows.schemas.training import load_train_config
    from e3relax_flows.train.loop import launch_training
    from e3relax_flows.train.stopping import EXIT_CONTINUE

    settings = load_train_config(config)
    if dry_run:
        _plan(settings, json_lines)
        return
    if export_only:
        from e3relax_flows.train.trainer import Trainer

        trainer = Trainer(settings)
        if not trainer.resume() or trainer.progress.best_step < 0:
            raise ModelError(
                f"{settings.out} holds no checkpoint with validated weights; train first: e3relax train {config}"
            )
        _export(trainer, json_lines)
        return
    launch = launch_training(settings, _print_json if json_lines else _print_record)
    if launch.is_stopped:
        raise typer.Exit(EXIT_CONTINUE)
    if launch.is_first:
        _export(launch.trainer, json_lines)


def _plan(config: TrainConfig, as_json: bool) -> None:
    """Report the training data and the start; nothing is written."""
    from e3relax_flows.train.checkpoint import find_checkpoint
    from e3relax_flows.train.dataset import load_pairs
    from e3relax_flows.train.trainer import build_network

    sizes = {name: len(load_pairs(paths)) for name, paths in (("train", config.data.train), ("val", config.data.val))}
    found = find_checkpoint(config.out)
    n_parameters = sum(parameter.numel() for parameter in build_network(config).parameters())
    plan = {
        "pairs_train": sizes["train"],
        "pairs_val": sizes["val"],
        "kind": config.kind,
        "n_parameters": n_parameters,
        "max_steps": config.schedule.max_steps,
        "max_hours": config.schedule.max_hours,
        "out": str(config.out),
        "goes_on_from_step": found.state["progress"]["step"] if found else None,
        "device": config.device,
    }
    if as_json:
        print_json({"dry_run": True, **plan})
        return
    start = "at the beginning" if found is None else f"at step {plan['goes_on_from_step']} of {found.path}"
    hours = f" or {config.schedule.max_hours:g} h" if config.schedule.max_hours else ""
    for line in (
        f"{sizes['train']} pairs to train on, {sizes['val']} to validate with",
        f"{config.kind} of {n_parameters:,} parameters on {config.device}",
        f"up to {config.schedule.max_steps} steps{hours}",
        f"it would begin {start} and write into {config.out}; nothing was done: that was a dry run",
    ):
        out.print(line, soft_wrap=True, markup=False, highlight=False)


def _export(trainer: Trainer, as_json: bool = False) -> None:
    from e3relax_flows.train.export import export_model

    err.print("calibrating the guard on the validation pairs", style="dim")
    folder = export_model(trainer, trainer.config.out / trainer.config.name)
    if as_json:
        typer.echo(json.dumps({"event": "export", "model_id": folder.model_id, "path": str(folder.path)}))
        return
    out.print(f"model {folder.model_id} in {folder.path}; use it with: --model {folder.path}", soft_wrap=True)


def _print_json(record: dict[str, Any]) -> None:
    from e3relax_flows.train.progress import dump_record

    typer.echo(dump_record(record))


def _print_record(record: dict[str, Any]) -> None:
    from e3relax_flows.train.progress import format_record

    style = "yellow" if record.get("event") in ("warning", "stop") else None
    out.print(format_record(record), style=style, soft_wrap=True, markup=False)
