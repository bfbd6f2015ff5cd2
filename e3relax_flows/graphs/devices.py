"""Resolve names of devices to torch devices; an unavailable device is refused, never replaced."""

from __future__ import annotations

import torch

from e3relax_flows.core.errors import ConfigError

DEVICE_TYPES = ("cpu", "cuda")  # those with float64


def resolve_device(device: str) -> torch.device:
    """The torch device of a name; "auto" is CUDA where there is one, else the CPU.

    Raises
    ------
    ConfigError
        When the name is unknown or the device is not available; no other one is used instead.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(f"device {device!r} is unknown; give auto, cpu, cuda or cuda:N") from error
    if resolved.type not in DEVICE_TYPES:
        raise ConfigError(f"device {device!r} cannot be used (float64 is needed); give auto, cpu, cuda or cuda:N")
    n_devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if resolved.type == "cuda" and (resolved.index or 0) >= n_devices:
        raise ConfigError(
            f"device {device!r} was requested, but torch {torch.__version__} sees {n_devices} CUDA devices; give "
            "--device cpu (device='cpu'), or install a torch with CUDA from https://pytorch.org"
        )
    return resolved
