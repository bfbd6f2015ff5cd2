from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from pymatgen.core import Structure

from e3relax_flows.train.config import TrainConfig, load_train_config

RADII = {"Li": 1.28, "Na": 1.66, "K": 2.03, "F": 0.57, "Cl": 1.02, "Br": 1.2}


def make_pairs(seed, n):
    """Alkali halides whose relaxed lattice parameter is 2.2 times the sum of radii, from random starts."""
    rng = np.random.default_rng(seed)
    rows = []
    for index in range(n):
        cation, anion = rng.choice(["Li", "Na", "K"]), rng.choice(["F", "Cl", "Br"])
        a = 2.2 * (RADII[cation] + RADII[anion])
        relaxed = Structure(a / 2 * (np.ones((3, 3)) - np.eye(3)), [cation, anion], [[0, 0, 0], [0.5] * 3])
        strain = 0.06 * rng.normal(size=(3, 3))
        lattice = relaxed.lattice.matrix @ (np.eye(3) * rng.uniform(0.9, 1.15) + (strain + strain.T) / 2)
        lattice = lattice.round(8)  # the same to the bit on every machine
        noise = 0.02 * rng.normal(size=(2, 3))
        rows.append(
            {
                "id": f"{seed}-{index}",
                "source": "small" if anion == "F" else "large",
                "functional": "PBE",
                "group": f"{cation}{anion}",
                "numbers": list(relaxed.atomic_numbers),
                "initial": {"lattice": lattice.tolist(), "frac": (relaxed.frac_coords + noise).round(8).tolist()},
                "relaxed": {"lattice": relaxed.lattice.matrix.tolist(), "frac": relaxed.frac_coords.tolist()},
            }
        )
    return rows


def write_pairs(path, rows):
    with gzip.open(path, "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return path


@pytest.fixture
def config_file(tmp_path):
    write_pairs(tmp_path / "train.jsonl.gz", make_pairs(0, 64))
    write_pairs(tmp_path / "val.jsonl.gz", make_pairs(1, 24))
    config = {
        "out": "run",
        "name": "tiny",
        "network": {"n_layers": 2, "n_scalars": 16, "n_hidden": 16, "n_vectors": 4, "n_densities": 4, "n_radial": 8},
        "data": {"train": ["train.jsonl.gz"], "val": ["val.jsonl.gz"], "max_atoms": 32},
        "schedule": {"max_steps": 60, "learning_rate": 0.01, "warmup_steps": 5, "ema_decay": 0.9},
        "val_every": 20,
        "threads": 1,
    }
    path = tmp_path / "train.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.fixture
def rewrite(config_file):
    """Change entries of the configuration file, sections by their keys, and load it."""

    def change(path: Path = config_file, **changes) -> TrainConfig:
        config = yaml.safe_load(path.read_text())
        for key, value in changes.items():
            if isinstance(value, dict) and isinstance(config.get(key, {}), dict):
                config.setdefault(key, {}).update(value)
            else:
                config[key] = value
        path.write_text(yaml.safe_dump(config))
        return load_train_config(path)

    return change


class Interruption(Exception):  # noqa: N818
    """Raised inside a run, as a kill would end it."""


@pytest.fixture
def interrupt_at():
    """A listener that breaks a run off when it reports this step, and keeps its losses by step."""

    def make(last: int):
        def listen(record):
            if "loss" in record:
                listen.losses[record["step"]] = record["loss"]
                if record["step"] >= last:
                    raise Interruption

        listen.losses = {}
        return listen

    return make
