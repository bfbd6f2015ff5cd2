"""The authors' checkpoint files: read them safely, and rename their parameters to ours."""

from __future__ import annotations

import pickle
import re
import struct
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from e3relax_flows.core.errors import ModelError
from e3relax_flows.model.released import ReleasedConfig

LAYER_PREFIXES = {
    r"lattice_feat_mlps\.(\d+)\.0\.": r"layers.\1.place.first.",
    r"lattice_feat_mlps\.(\d+)\.2\.": r"layers.\1.place.second.",
    r"lattice_blocks\.(\d+)\.axis_mix_scalar\.": r"layers.\1.mix_scalars.",
    r"lattice_blocks\.(\d+)\.axis_mix_vector\.": r"layers.\1.mix_vectors.",
    r"message_passing_layers\.(\d+)\.x_proj\.0\.": r"layers.\1.message.source.first.",
    r"message_passing_layers\.(\d+)\.x_proj\.2\.": r"layers.\1.message.source.second.",
    r"message_passing_layers\.(\d+)\.edge_proj\.": r"layers.\1.message.filter.",
    r"message_passing_layers\.(\d+)\.inv_norm\.": r"layers.\1.message.norm.",
    r"message_passing_layers\.(\d+)\.edge_inv_proj\.0\.": r"layers.\1.message.gate.",
    r"message_update_layers\.(\d+)\.vec_proj\.": r"layers.\1.interaction.vectors.",
    r"message_update_layers\.(\d+)\.xvec_proj\.0\.": r"layers.\1.interaction.scalars.first.",
    r"message_update_layers\.(\d+)\.xvec_proj\.2\.": r"layers.\1.interaction.scalars.second.",
    r"structure_update_layers\.(\d+)\.pos_mlp\.": r"layers.\1.step.",
    r"structure_update_layers\.(\d+)\.delta_scale$": r"layers.\1.step_scale",
}
AXIS_PREFIXES = {
    r"axis_atom_message_proj\.0\.": "message_source.first.",
    r"axis_atom_message_proj\.2\.": "message_source.second.",
    r"axis_edge_rbf_proj\.": "message_filter.",
    r"axis_to_atom_scalar_mlp\.0\.": "scalars_to_atoms.first.",
    r"axis_to_atom_scalar_mlp\.2\.": "scalars_to_atoms.second.",
    r"axis_to_atom_vector_mlp\.": "vectors_to_atoms.",
    r"atoms_to_axis_scalar_mlp\.0\.": "scalars_from_atoms.first.",
    r"atoms_to_axis_scalar_mlp\.2\.": "scalars_from_atoms.second.",
    r"atoms_to_axis_vector_mlp\.": "vectors_from_atoms.",
    r"axis_state_vector_proj\.": "state_vectors.",
    r"axis_state_scalar_mlp\.0\.": "state_scalars.first.",
    r"axis_state_scalar_mlp\.2\.": "state_scalars.second.",
    r"axis_lattice_delta_mlp\.": "change.",
}
RENAMES = (
    {r"atom_emb\.embeddings\.": "atom_embedding.", r"lattice_scalar_emb\.": "axis_embedding."}
    | LAYER_PREFIXES
    | {
        r"lattice_blocks\.(\d+)\.axis_blocks\.(\d+)\." + theirs: r"layers.\1.axes.\2." + ours
        for theirs, ours in AXIS_PREFIXES.items()
    }
)
READ_ERRORS = (  # what torch.load raises for damaged files
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    struct.error,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
RADIAL_CENTERS = "radial_basis.rbf.offset"
CENTER_TOLERANCE = 1e-6


def read_checkpoint(file: Path) -> dict[str, Any]:
    """Read a file of `torch.save` without running anything that is in it.

    Raises
    ------
    ModelError
        When the file is missing, is not a checkpoint, holds more than tensors and plain values, or has no EMA weights.
    """
    try:
        file.open("rb").close()
    except OSError as error:
        raise ModelError(f"cannot read {file} ({error.strerror or error}); give the path of a checkpoint") from error
    try:
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except READ_ERRORS as error:  # torch's own message would advise to run the code in the file
        raise ModelError(
            f"{file} is not a checkpoint, is damaged, or holds more than tensors and plain values "
            f"({type(error).__name__}); code in a file is never run: download it again and run "
            "`e3relax models import FILE`"
        ) from error
    if not isinstance(content, dict) or not isinstance(content.get("ema"), dict) or not content["ema"]:
        found = ", ".join(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise ModelError(
            f"{file} has no EMA weights ('ema'), which the released code predicts with; found: {found[:200]}; "
            "give a checkpoint of the released E3Relax-H2 to `e3relax models import FILE`"
        )
    return content


def rename_parameters(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The authors' parameters under our names; the radial centres, which are not learned, are left out.

    Raises
    ------
    ModelError
        When a parameter is unknown, or the radial centres are not evenly spaced from 0 to 1.
    """
    renamed, unknown = {}, []
    for name, value in weights.items():
        ours = _rename(str(name)) if isinstance(value, Tensor) and value.is_floating_point() else None
        if ours is None:
            unknown.append(str(name))
        elif ours == RADIAL_CENTERS:
            _check_centers(value)
        else:
            renamed[ours] = value
    if unknown:
        raise ModelError(
            f"{len(unknown)} of the checkpoint's {len(weights)} entries do not belong to the released E3Relax-H2 "
            f"({', '.join(unknown[:3])}{', ...' if len(unknown) > 3 else ''}); "
            "give one of its checkpoints to `e3relax models import FILE`"
        )
    return renamed


def infer_config(weights: dict[str, Tensor]) -> ReleasedConfig:
    """Sizes of the network from the shapes of its renamed parameters; cutoffs are those of the released code.

    Raises
    ------
    ModelError
        When the parameters that give the sizes are missing or of the wrong rank.
    """
    layers = {int(match[1]) for name in weights if (match := re.match(r"layers\.(\d+)\.", name))}
    try:
        n_elements, n_channels = weights["atom_embedding.weight"].shape
        n_radial = weights["layers.0.message.filter.weight"].shape[1]
        return ReleasedConfig(n_channels=n_channels, n_layers=max(layers) + 1, n_radial=n_radial, n_elements=n_elements)
    except (KeyError, ValueError, IndexError) as error:  # pydantic's ValidationError is a ValueError
        raise ModelError(
            f"the sizes of the network cannot be read from the checkpoint's EMA weights ({error}); "
            "give a checkpoint of the released E3Relax-H2 to `e3relax models import FILE`"
        ) from error


def _rename(name: str) -> str | None:
    """Our name of a parameter; the radial centres keep theirs; None for a name that the authors' code does not have."""
    if name == RADIAL_CENTERS:
        return name
    for pattern, replacement in RENAMES.items():
        ours, count = re.subn("^" + pattern, replacement, name)
        if count:
            return ours
    return None


def _check_centers(centers: Tensor) -> None:
    expected = torch.linspace(0.0, 1.0, centers.numel(), dtype=torch.float64)
    if centers.dim() != 1 or (centers.double() - expected).abs().max() > CENTER_TOLERANCE:
        raise ModelError(
            f"the checkpoint's radial centres ({RADIAL_CENTERS}, {centers.numel()} values) are not evenly spaced from "
            "0 to 1 as in the released E3Relax-H2; only its checkpoints can be imported with `e3relax models import`"
        )
