"""Error against data and against parameters: short trainings that differ in one thing each, told by what they reach.

python benchmarks/scaling.py --train PAIRS... --val PAIRS... --out FOLDER [--steps 1200] [--functionals PBE 'PBE(+U)']

Each training has a folder in FOLDER and goes on there when it was ended; with --table nothing is trained. Parts of the
data are whole groups, drawn by their names, the smaller parts within the larger ones. The last line of each table is
the exponent of a power law through its points: error ~ n^exponent.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from e3relax_flows.core.ids import draw_uniform
from e3relax_flows.core.run_information import now
from e3relax_flows.schemas.training import TrainConfig
from e3relax_flows.train.dataset import load_pairs
from e3relax_flows.train.loop import LOG_FILE, train_model
from e3relax_flows.train.pairs import PairSet
from e3relax_flows.train.shards import write_shards

PARTS = (0.0625, 0.25, 1.0)
# channels of atoms and edges, of vectors, of densities
SIZES = {"small": (32, 12, 6), "usual": (64, 24, 12), "large": (96, 36, 16)}
AUGMENTATION = {"identity": 0.08, "near": 0.14, "near_strain": 0.05, "near_noise": 0.1, "path": 0.25}
SCHEDULE = {"learning_rate": 1.6e-3, "optimizer": "muon", "weight_decay": 0.03}
METRICS = ("displacement", "strain", "volume")


@dataclass(frozen=True)
class Training:
    """One of them."""

    part: float
    size: str

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"part-{self.part:g}-{self.size}"


def main() -> None:
    """Train what is missing, then print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, nargs="+", required=True)
    parser.add_argument("--val", type=Path, nargs="+", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--functionals", nargs="+")
    parser.add_argument("--table", action="store_true", help="only print what is there")
    arguments = parser.parse_args()
    trainings = [
        *(Training(part, "usual") for part in PARTS),
        *(Training(1.0, size) for size in SIZES if size != "usual"),
    ]
    if not arguments.table:
        pairs = load_pairs(arguments.train)
        for training in trainings:
            run(training, pairs, arguments)
    print(f"`{shlex.join(['python', *sys.argv])}` · {now():%Y-%m-%d} · {arguments.steps} steps each\n")
    print(tabulate(arguments.out, [t for t in trainings if t.size == "usual"], "n_pairs", "pairs"))
    print()
    by_size = sorted((t for t in trainings if t.part == 1.0), key=lambda t: list(SIZES).index(t.size))
    print(tabulate(arguments.out, by_size, "n_parameters", "parameters"))


def run(training: Training, pairs: PairSet, arguments: argparse.Namespace) -> None:
    """Train one, or go on with it."""
    folder = arguments.out / training.name
    shards = arguments.out / f"pairs-{training.part:g}"
    if not shards.exists():
        keep = [i for i, group in enumerate(pairs.groups) if draw_uniform(0, group) < training.part]
        write_shards(pairs.select(keep), shards)
    n_scalars, n_vectors, n_densities = SIZES[training.size]
    config = TrainConfig.model_validate(
        {
            "out": folder,
            "network": {
                "n_scalars": n_scalars,
                "n_hidden": n_scalars,
                "n_vectors": n_vectors,
                "n_densities": n_densities,
            },
            "data": {
                "train": [shards],
                "val": arguments.val,
                "functionals": arguments.functionals,
                "val_size": 1000,
                "max_atoms": 240,
                "augmentation": AUGMENTATION,
            },
            "loss": {"displacement": 2.0},
            "schedule": {
                "max_steps": arguments.steps,
                "learning_rate": 1.6e-3,
                "optimizer": "muon",
                "weight_decay": 0.03,
            },
            "threads": 1,
            "val_every": arguments.steps // 2,
            "log": {"every_seconds": 60},
        }
    )
    trainer = train_model(config)
    facts = {
        "n_pairs": sum(draw_uniform(0, group) < training.part for group in pairs.groups),
        "n_parameters": sum(parameter.numel() for parameter in trainer.network.parameters()),
        "hours": trainer.progress.seconds / 3600,
    }
    (folder / "facts.json").write_text(json.dumps(facts))


def tabulate(out: Path, trainings: list[Training], key: str, name: str) -> str:
    """Errors on validation, mean over all pairs, and their exponents."""
    lines = [f"| {name} | h | error over the identity's | " + " | ".join(METRICS) + " |", "|---|---|---|---|---|---|"]
    points = []
    for training in trainings:
        path = out / training.name / "facts.json"
        if not path.exists():
            continue
        facts, last = json.loads(path.read_text()), list(read_validations(out / training.name))[-1]
        errors = [last["errors"]["all"][metric] for metric in METRICS]
        points.append([facts[key], last["score"], *errors])
        cells = " | ".join(f"{value:.4f}" for value in (last["score"], *errors))
        lines.append(f"| {facts[key]:,} | {facts['hours']:.2f} | {cells} |")
    if len(points) > 1:
        logs = np.log(np.array(points))
        slopes = [np.polyfit(logs[:, 0], logs[:, column], 1)[0] for column in range(1, logs.shape[1])]
        lines.append("| exponent | | " + " | ".join(f"{slope:+.3f}" for slope in slopes) + " |")
    return "\n".join(lines)


def read_validations(folder: Path) -> Iterator[dict[str, Any]]:
    """Validations in the log of a training."""
    for line in (folder / LOG_FILE).read_text().splitlines():
        record = json.loads(line)
        if record.get("event") == "validation":
            yield record


if __name__ == "__main__":
    main()
