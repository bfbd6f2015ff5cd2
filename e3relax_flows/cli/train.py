"""`e3relax train`: train a network from a configuration file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from e3relax_flows.cli.console import err, out


def train(
    config: Annotated[Path, typer.Argument(help="YAML file; configs/train.yaml shows all keys.")],
    json_lines: Annotated[bool, typer.Option("--json", help="Print every line of the log as JSON.")] = False,
) -> None:
    """Train a network, and export its best weights as a model folder; run again to continue a stopped run."""
    from e3relax_flows.train.config import load_train_config
    from e3relax_flows.train.export import export_model
    from e3relax_flows.train.loop import train_model

    settings = load_train_config(config)
    trainer = train_model(settings, _print_json if json_lines else _print_record)
    err.print("calibrating the guard on the validation pairs", style="dim")
    folder = export_model(trainer, settings.out / settings.name)
    out.print(f"model {folder.model_id} in {folder.path}; use it with: --model {folder.path}", soft_wrap=True)


def _print_json(record: dict[str, Any]) -> None:
    import json

    typer.echo(json.dumps(record))


def _print_record(record: dict[str, Any]) -> None:
    event = record.get("event")
    if event == "validation":
        ratios = "; ".join(
            f"{source} " + " ".join(f"{ratio:.2f}" for ratio in values)
            for source, values in record["over_identity"].items()
        )
        out.print(
            f"step {record['step']}: score {record['score']:.4f} (best {record['best']:.4f}); displacement, strain, "
            f"volume over the identity's: {ratios}",
            soft_wrap=True,
        )
    elif event:
        out.print(f"{event} at step {record['step']}, {record['n_pairs']} pairs")
    else:
        out.print(
            f"step {record['step']} ({record['done']:.1%}): loss {record['loss']:.4f}, "
            f"{record['per_second']:.0f} structures/s"
        )
