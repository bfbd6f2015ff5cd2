"""Numbers computed by the released code in float64 for eight crystals, for the tests beside this file."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from e3relax_flows.graphs.batching import Crystal
from e3relax_flows.graphs.neighbors import Neighbors
from e3relax_flows.model.authors import infer_config, rename_parameters
from e3relax_flows.model.interface import Layer
from e3relax_flows.model.released import ReleasedE3RelaxH2

FILE = Path(__file__).resolve().parents[1] / "files" / "released_parity.npz"
N_LAYERS = 3


class GoldenCrystal(NamedTuple):
    name: str
    crystal: Crystal  # with the edges of the released code
    layers: list[Layer]  # what the released code gave


@cache
def load_arrays() -> dict[str, np.ndarray]:
    with np.load(FILE) as file:
        return {key: file[key] for key in file.files}


def load_weights() -> dict[str, Tensor]:
    """Weights under the authors' names, float64."""
    arrays = load_arrays()
    return {key.removeprefix("weights/"): torch.tensor(arrays[key]) for key in arrays if key.startswith("weights/")}


def load_network(as_released: bool = True) -> ReleasedE3RelaxH2:
    """The network with the golden weights in float64."""
    weights = rename_parameters(load_weights())
    network = ReleasedE3RelaxH2(infer_config(weights).model_copy(update={"as_released": as_released})).double()
    network.load_state_dict(weights)
    return network.requires_grad_(False)


def load_crystals() -> list[GoldenCrystal]:
    arrays = load_arrays()
    atom_ends, edge_ends = np.cumsum(arrays["natoms"]), np.cumsum(arrays["edges_per_graph"])
    found = []
    for g, name in enumerate(arrays["names"]):
        first = atom_ends[g] - arrays["natoms"][g]
        atoms = slice(first, atom_ends[g])
        edges = slice(edge_ends[g] - arrays["edges_per_graph"][g], edge_ends[g])
        neighbors, centers = arrays["edge_index"][:, edges] - first
        crystal = Crystal(
            numbers=arrays["atomic_numbers"][atoms],
            positions=arrays["pos"][atoms],
            lattice=arrays["cell"][g],
            edges=Neighbors(centers, neighbors, arrays["cell_offsets"][edges]),
            cutoff=6.0,
        )
        layers = [
            Layer(torch.tensor(arrays[f"pos_layer{k}"][atoms]), torch.tensor(arrays[f"cell_layer{k}"][g : g + 1]))
            for k in range(1, N_LAYERS + 1)
        ]
        found.append(GoldenCrystal(str(name), crystal, layers))
    return found
