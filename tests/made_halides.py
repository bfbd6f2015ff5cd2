"""Pairs of alkali halides to train on, and what breaks a training off."""

from __future__ import annotations

import gzip
import json

import numpy as np
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


class Interruption(Exception):  # noqa: N818
    """Raised inside a run, as a kill would end it."""
