"""Networks to model folders and back, and the authors' checkpoints into model folders.

Weights are safetensors, which hold no code. The configuration beside them is JSON:
`{"format_version": 1, "kind": ..., "network": {...}, "weights_sha256": ...}` and further facts about the model.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor

from e3relax_flows.core.errors import ModelError
from e3relax_flows.core.model_folders import (
    ALIASES,
    BUNDLED,
    CARD_FILE,
    CONFIG_FILE,
    FORMAT_VERSION,
    MODEL_NAME,
    WEIGHTS_FILE,
    ModelFolder,
    identify_model,
    read_model_folder,
    write_model_folder,
)
from e3relax_flows.model import network as _network  # noqa: F401  registers its kind
from e3relax_flows.model.authors import infer_config, read_checkpoint, rename_parameters
from e3relax_flows.model.interface import RelaxationNetwork
from e3relax_flows.model.released import ReleasedE3RelaxH2

RESERVED = {"format_version", "kind", "network", "weights_sha256"}


def save_model(folder: Path, network: RelaxationNetwork, card: str, extra: dict[str, Any] | None = None) -> ModelFolder:
    """Write a model folder atomically: it appears complete or not at all.

    Parameters
    ----------
    folder
        Path of the folder to make; its last part is the model's name.
    card
        Markdown for people: what it was trained on, licence, metrics, limits.
    extra
        More entries of the configuration, as plain JSON: "calibration", "provenance", ...

    Raises
    ------
    ModelError
        When another model is there already (the same one is left as it is), or an entry of `extra` has a reserved
        name or is not JSON.
    """
    extra = extra or {}
    if clash := RESERVED & extra.keys():
        raise ModelError(f"extra entries {sorted(clash)} are written by save_model itself; name them differently")
    weights = save_safetensors(
        {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    )
    config = {
        "format_version": FORMAT_VERSION,
        "kind": network.kind,
        "network": network.config.model_dump(mode="json"),
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        **extra,
    }
    try:
        text = json.dumps(config, indent=2, sort_keys=True, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise ModelError(f"extra entries of {folder} are not JSON ({error}); give plain finite values") from error
    files = {CONFIG_FILE: text.encode(), WEIGHTS_FILE: weights, CARD_FILE: card.encode()}
    if not write_model_folder(folder, files):
        return _keep_existing(folder, identify_model(json.loads(text), weights))
    return read_model_folder(folder)


def load_network(
    folder: ModelFolder, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> RelaxationNetwork:
    """Build the network of a model folder with its weights, ready to predict.

    Raises
    ------
    ModelError
        When the files have changed since `folder` was read, are damaged, or do not fit each other.
    """
    weights = _read_weights(folder)
    kind = folder.config.get("kind")
    if kind not in RelaxationNetwork.kinds:
        raise ModelError(
            f"{folder.path}: kind {kind!r} of network is unknown, this release has "
            f"{', '.join(sorted(RelaxationNetwork.kinds))}; update with: pip install -U e3relax-flows"
        )
    try:
        with torch.random.fork_rng(devices=[]):  # the initial weights are discarded; keep the caller's random state
            network = RelaxationNetwork.kinds[kind].from_config(folder.config.get("network", {}))
    except ValidationError as error:
        lines = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ModelError(
            f"{folder.path}/{CONFIG_FILE}: network: {lines}; fetch the model again, "
            "or update with: pip install -U e3relax-flows"
        ) from error
    _fill(network, weights, str(folder.path / WEIGHTS_FILE), "fetch or import the model again")
    return network.to(device=device, dtype=dtype).eval()


def import_checkpoint(file: Path, models_dir: Path, name: str | None = None) -> ModelFolder:
    """Turn a checkpoint of the authors' code into a model folder; the EMA weights are taken.

    Importing the same file under the same name again changes nothing.

    Parameters
    ----------
    name
        Name of the model, letters, digits, "." "_" "-"; none: the file's name without its ending.

    Raises
    ------
    ModelError
        When the file is not such a checkpoint, the name is unusable, or another model has it.
    """
    name = name if name is not None else re.sub(r"[^A-Za-z0-9._-]+", "-", file.stem).strip(".-") or "released"
    if not MODEL_NAME.fullmatch(name):
        raise ModelError(
            f"{name!r} cannot be a model's name; use letters, digits, '.', '_' and '-', e.g. "
            "`e3relax models import FILE --name released-mp`"
        )
    if name in {*ALIASES, *ALIASES.values()} or (BUNDLED / name).exists():
        raise ModelError(f"{name!r} is the name of a bundled model; add another one, e.g. --name {name}-imported")
    content = read_checkpoint(file)
    weights = rename_parameters(content["ema"])
    config = infer_config(weights)
    with torch.random.fork_rng(devices=[]):
        network = ReleasedE3RelaxH2(config)
    network.to(dtype=weights["atom_embedding.weight"].dtype)
    _fill(network, weights, f"{file} (EMA weights)", "give a checkpoint of the released E3Relax-H2")
    with file.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    progress = {key: content[key] for key in ("epoch", "step") if isinstance(content.get(key), int)}
    provenance = {"source": "checkpoint of the authors' E3Relax-H2 code", "sha256": sha256}
    card = _describe_import(name, network, file.name, sha256, progress)
    return save_model(models_dir / name, network, card, {"provenance": provenance | progress})


def _read_weights(folder: ModelFolder) -> dict[str, Tensor]:
    """Read and verify the weights."""
    path = folder.path / WEIGHTS_FILE
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(f"cannot read {path} ({error.strerror}); fetch or import the model again") from error
    stated = folder.config.get("weights_sha256")
    actual = hashlib.sha256(content).hexdigest()
    if stated != actual or identify_model(folder.config, content) != folder.model_id:
        raise ModelError(
            f"{path} is damaged or was changed: its sha256 is {actual[:16]}..., {CONFIG_FILE} states "
            f"{str(stated)[:16]}...; fetch or import the model again"
        )
    try:
        return load_safetensors(content)
    except (SafetensorError, ValueError, KeyError) as error:
        raise ModelError(f"{path} is not a safetensors file ({error}); fetch or import the model again") from error


def _fill(network: RelaxationNetwork, weights: dict[str, Tensor], source: str, advice: str) -> None:
    """Give the network its weights: every one of them, and no others."""
    expected = network.state_dict()
    missing, unknown = sorted(expected.keys() - weights.keys()), sorted(weights.keys() - expected.keys())
    wrong = [
        f"{name} {list(weights[name].shape)} instead of {list(expected[name].shape)}"
        for name in sorted(expected.keys() & weights.keys())
        if weights[name].shape != expected[name].shape
    ]
    problems = [
        f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for what, names in (("missing", missing), ("unknown", unknown), ("of the wrong shape", wrong))
        if names
    ]
    if problems:
        raise ModelError(f"{source} does not fit a {network.kind!r} network: {'; '.join(problems)}; {advice}")
    network.load_state_dict(weights)


def _keep_existing(folder: Path, model_id: str) -> ModelFolder:
    """Return the model that is at `folder` if it is `model_id`, refuse otherwise."""
    existing = read_model_folder(folder)
    if existing.model_id != model_id:
        raise ModelError(
            f"{folder} holds another model already ({existing.model_id}, this one is {model_id}); "
            "save or import it under another name, or remove that folder"
        )
    return existing


def _describe_import(
    name: str, network: ReleasedE3RelaxH2, file_name: str, sha256: str, progress: dict[str, int]
) -> str:
    """Model card of an imported checkpoint."""
    n_parameters = sum(parameter.numel() for parameter in network.parameters())
    sizes = ", ".join(f"{key} {value}" for key, value in network.config.model_dump().items())
    trained = ", ".join(f"{key} {value}" for key, value in progress.items()) or "not stated in the file"
    return f"""# {name}

E3Relax-H2 of arXiv 2603.23941, imported from a checkpoint of its authors' code; the EMA weights were taken.

| | |
| --- | --- |
| file | `{file_name}` |
| sha256 | `{sha256}` |
| parameters | {n_parameters:,} |
| sizes | {sizes} |
| trained for | {trained} |

What the weights were trained on, how good they are and under which licence they may be used is not in the file: ask
where you got it. Cite the paper wherever you use them.

## Limits

The network predicts what the authors' code predicts, its faults included:

* rotating the crystal changes the prediction (the lattice update is transposed);
* so do writing an atom in another periodic image and relabelling the lattice vectors;
* it breaks the symmetry of the input; the predictor therefore projects onto the space group by default;
* atomic numbers from {network.config.n_elements} on are refused.

There is no calibrated score for these weights: judge them with `e3relax evaluate` on pairs of your own.
"""
