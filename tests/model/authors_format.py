"""Checkpoints in the authors' format with random weights of any size, for the tests beside this file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch


def write_checkpoint(path: Path, ema: dict[str, torch.Tensor], /, **changes: Any) -> Path:
    """A checkpoint in the authors' format, with weights in `model` that give another prediction."""
    content = {
        "ema": ema,
        "model": {name: 1.05 * value for name, value in ema.items()},
        "optimizer": {
            "state": {0: {"step": torch.tensor(7.0), "exp_avg": torch.zeros(3)}},
            "param_groups": [{"lr": 1e-4}],
        },
        "scaler": None,
        "epoch": 12,
        "step": 9600,
        "ema_decay": 0.999,
        "ema_updates": 9600,
    }
    torch.save({key: value for key, value in (content | changes).items() if value is not ...}, path)
    return path


def make_ema(h: int, n_layers: int, r: int, n_elements: int) -> dict[str, torch.Tensor]:
    """Random weights under the authors' names for any sizes."""
    shapes: dict[str, tuple[int, ...]] = {
        "atom_emb.embeddings.weight": (n_elements, h),
        "lattice_scalar_emb.weight": (3, h),
        "radial_basis.rbf.offset": (r,),
    }

    def add_linear(name: str, n_in: int, n_out: int, bias: bool = True) -> None:
        shapes[f"{name}.weight"] = (n_out, n_in)
        if bias:
            shapes[f"{name}.bias"] = (n_out,)

    def add_perceptron(name: str, n_in: int, n_hidden: int, n_out: int) -> None:
        add_linear(f"{name}.0", n_in, n_hidden)
        add_linear(f"{name}.2", n_hidden, n_out)

    for k in range(n_layers):
        message, update = f"message_passing_layers.{k}", f"message_update_layers.{k}"
        add_perceptron(f"{message}.x_proj", h, h // 2, 3 * h)
        add_linear(f"{message}.edge_proj", r, 3 * h)
        shapes[f"{message}.inv_norm.weight"] = shapes[f"{message}.inv_norm.bias"] = (4,)
        add_linear(f"{message}.edge_inv_proj.0", 5, 3 * h)
        add_linear(f"{update}.vec_proj", h, 2 * h, bias=False)
        add_perceptron(f"{update}.xvec_proj", 2 * h, h, 3 * h)
        shapes[f"structure_update_layers.{k}.delta_scale"] = ()
        add_linear(f"structure_update_layers.{k}.pos_mlp", h, 1, bias=False)
        add_perceptron(f"lattice_feat_mlps.{k}", 2 * r, r, r)
        add_linear(f"lattice_blocks.{k}.axis_mix_scalar", 3, 3)
        add_linear(f"lattice_blocks.{k}.axis_mix_vector", 3, 3, bias=False)
        for axis in range(3):
            block = f"lattice_blocks.{k}.axis_blocks.{axis}"
            add_perceptron(f"{block}.axis_atom_message_proj", h, h, 3 * h)
            add_linear(f"{block}.axis_edge_rbf_proj", r, 3 * h)
            for direction in ("atoms_to_axis", "axis_to_atom"):
                add_perceptron(f"{block}.{direction}_scalar_mlp", 2 * h, h, h)
                add_linear(f"{block}.{direction}_vector_mlp", h, h, bias=False)
            add_linear(f"{block}.axis_state_vector_proj", h, 2 * h, bias=False)
            add_perceptron(f"{block}.axis_state_scalar_mlp", 2 * h, h, 3 * h)
            add_linear(f"{block}.axis_lattice_delta_mlp", h, 1, bias=False)
    generator = torch.Generator().manual_seed(1)
    weights = {
        name: torch.randn(shape, generator=generator) / (3 * shape[-1] ** 0.5 if shape else 1)
        for name, shape in shapes.items()
    }
    weights["radial_basis.rbf.offset"] = torch.linspace(0, 1, r)
    return weights
