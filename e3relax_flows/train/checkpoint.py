"""Checkpoints: everything a run needs to go on, replaced whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from e3relax_flows.core.errors import ModelError

FORMAT_VERSION = 1


def write_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write beside, flush to disk, then rename: a kill leaves the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        torch.save({"format_version": FORMAT_VERSION, **state}, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint with nothing executable in it.

    Raises
    ------
    ModelError
        When the file is no checkpoint of this format.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file
        raise ModelError(f"{path} is no readable checkpoint ({error}); remove it to start anew") from error
    if state.get("format_version") != FORMAT_VERSION:
        raise ModelError(
            f"{path}: checkpoint format {state.get('format_version')!r}, this release reads {FORMAT_VERSION}"
        )
    return state
