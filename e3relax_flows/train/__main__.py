"""`python -m e3relax_flows.train CONFIG`: what torchrun and srun start; needs torch, numpy and e3nn, no pymatgen.

Exit codes: 0 trained to the end, 2 not started (configuration, data, checkpoint), 75 stopped by a signal or by its
walltime: start it again. torchrun itself gives 1 whenever one of its processes does not give 0; the last line of
`log.jsonl` shows whether that was a stop or a failure.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from pathlib import Path
from typing import Any

from e3relax_flows.core.errors import E3RelaxError
from e3relax_flows.schemas.training import load_train_config
from e3relax_flows.train.loop import launch_training
from e3relax_flows.train.progress import format_record
from e3relax_flows.train.stopping import EXIT_CONTINUE
from e3relax_flows.train.trainer import Trainer


def main() -> int:
    """Train; export if the packages of prediction are installed."""
    parser = argparse.ArgumentParser(prog="python -m e3relax_flows.train", description="Train a network.")
    parser.add_argument("config", type=Path, help="YAML file; configs/train.yaml shows all keys")
    parser.add_argument("--no-export", action="store_true", help="leave the best weights in the checkpoint")
    arguments = parser.parse_args()
    path = arguments.config
    try:
        launch = launch_training(load_train_config(path), _print)
    except E3RelaxError as error:
        if os.environ.get("RANK", "0") == "0" and os.environ.get("SLURM_PROCID", "0") == "0":
            print(f"error: {error}", file=sys.stderr, flush=True)
        return 2
    if launch.is_stopped:
        return EXIT_CONTINUE
    if launch.is_first and not arguments.no_export:
        _export(launch.trainer, path)
    return 0


def _print(record: dict[str, Any]) -> None:
    print(format_record(record), flush=True)


def _export(trainer: Trainer, path: Path) -> None:
    try:
        export = importlib.import_module("e3relax_flows.train.export")
    except ModuleNotFoundError as error:
        print(
            f"trained, not exported: {error.name!r} is not installed here; with all of e3relax-flows installed, run: "
            f"e3relax train {path} --export-only"
        )
        return
    folder = export.export_model(trainer, trainer.config.out / trainer.config.name)
    print(f"model {folder.model_id} in {folder.path}")


if __name__ == "__main__":
    sys.exit(main())
