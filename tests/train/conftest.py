from __future__ import annotations

import gzip
import json

import numpy as np
import pytest
import yaml
from pymatgen.core import Structure

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
        noise = 0.02 * rng.normal(size=(2, 3))
        rows.append(
            {
                "id": f"{seed}-{index}",
                "source": "small" if anion == "F" else "large",
                "numbers": list(relaxed.atomic_numbers),
                "initial": {"lattice": lattice.tolist(), "frac": (relaxed.frac_coords + noise).tolist()},
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
