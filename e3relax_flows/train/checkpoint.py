"""Checkpoints: everything that a run needs to continue, replaced atomically; the previous one is kept.

A checkpoint is written by `torch.save` and read with `weights_only=True`, so nothing in it is executed. Format 2:

    config      the part that must not change (`TrainConfig.describe`)
    data        content hashes of the pairs to train on and to validate with, or none if they are not known
    network, average, best    raw weights, their moving average, the best average so far
    optimizer   AdamW's state by names of parameters
    added       beginnings of names of parameters that did not exist when it was written, and start afresh
    progress    step, epoch, batches used of the epoch, seconds, best score and its step
    validation  hash of the pairs that gave the best score, or none
    rng         torch's generator (all else is a function of seed, epoch and index)
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from e3relax_flows.core.errors import ModelError

FORMAT_VERSION = 2
CHECKPOINT_FILE, PREVIOUS_FILE = "last.ckpt", "previous.ckpt"


# parts of the network that are younger than format 1
YOUNGER_THAN_1 = ("errors.",)


class FoundCheckpoint(NamedTuple):
    """The newest readable checkpoint of a folder."""

    path: Path
    state: dict[str, Any]
    warning: str | None  # why it is not the newest one


def write_checkpoint(path: Path, state: dict[str, Any], keep_previous: bool = False) -> None:
    """Write a temporary file, flush it to disk, keep the present one as the previous one, then rename.

    If the process is killed at any moment, a complete checkpoint remains, as the last or as the previous one.

    Parameters
    ----------
    keep_previous
        Keep the previous one, because the file at `path` is damaged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        torch.save({"format_version": FORMAT_VERSION, **state}, file)
        file.flush()
        os.fsync(file.fileno())
    if path.exists() and not keep_previous:
        path.replace(path.with_name(PREVIOUS_FILE))
    temporary.replace(path)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint of this or an older format, as one of this format.

    Raises
    ------
    ModelError
        When the file is not a checkpoint, or one of a newer format.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        version = state["format_version"]
    except Exception as error:  # torch raises many kinds for a damaged file
        raise ModelError(f"{path} is not a readable checkpoint ({error}); remove it to start again") from error
    if version not in UPGRADES and version != FORMAT_VERSION:
        raise ModelError(
            f"{path}: checkpoint format {version!r}, this release reads 1 to {FORMAT_VERSION}; "
            "update with: pip install -U e3relax-flows"
        )
    while state["format_version"] != FORMAT_VERSION:
        state = UPGRADES[state["format_version"]](state)
    return state


def find_checkpoint(folder: Path) -> FoundCheckpoint | None:
    """The last checkpoint of a run; the previous one if the last is missing or damaged.

    Raises
    ------
    ModelError
        When there are checkpoints but none can be read.
    """
    failure: ModelError | None = None
    for path in (folder / CHECKPOINT_FILE, folder / PREVIOUS_FILE):
        if not path.exists():
            continue
        try:
            state = read_checkpoint(path)
        except ModelError as error:
            failure = failure or error
            continue
        return FoundCheckpoint(path, state, f"{failure.args[0]}; continuing from {path}" if failure else None)
    if failure:
        raise failure
    return None


def _upgrade_from_1(state: dict[str, Any]) -> dict[str, Any]:
    """Format 1 named the files of pairs instead of hashing them, numbered parameters, and planned epochs differently.

    Such a run therefore continues with the next epoch.
    """
    names = list(state["network"])  # these networks had parameters only, in this order
    moments = {names[number]: moment for number, moment in state["optimizer"]["state"].items()}
    config = dict(state["config"])
    config["data"] = {key: value for key, value in config["data"].items() if key not in ("train", "val")}
    progress = dict(state["progress"])
    if progress["batch"]:
        progress |= {"epoch": progress["epoch"] + 1, "batch": 0}
    return state | {
        "format_version": 2,
        "config": config,
        "optimizer": moments,
        "added": list(YOUNGER_THAN_1),
        "data": {"train": None, "val": None},
        "progress": progress,
        "validation": None,
        "rng": None,
    }


UPGRADES = {1: _upgrade_from_1}


def complete_weights(weights: dict[str, Tensor], fresh: dict[str, Tensor], added: list[str]) -> dict[str, Tensor]:
    """Weights of a checkpoint, and `fresh` ones for parameters that did not exist when it was written."""
    missing = {name: fresh[name] for name in fresh if name not in weights and name.startswith(tuple(added))}
    return weights | missing
