"""The optimiser of a run: AdamW for all parameters, or Muon for the matrices and AdamW for the rest."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import Parameter

from e3relax_flows.schemas.training import ScheduleConfig


class RunOptimizer:
    """One or two of torch's optimisers that step together; their state is stored by names of parameters.

    Muon (K. Jordan et al., 2024) orthogonalises the momentum of a matrix; its update is scaled to AdamW's usual
    size, so that both take the same learning rate. Embeddings, vectors and matrices of one row stay with AdamW.

    Parameters
    ----------
    parameters
        Those that are trained, by name.
    """

    def __init__(self, parameters: dict[str, Parameter], schedule: ScheduleConfig) -> None:
        rate, decay = schedule.learning_rate, schedule.weight_decay
        matrices = {name: p for name, p in parameters.items() if schedule.optimizer == "muon" and _is_matrix(name, p)}
        others = {name: p for name, p in parameters.items() if name not in matrices}
        self._parts: list[tuple[list[str], torch.optim.Optimizer]] = []
        if others:
            # fused: a fifth of the time of the loop over parameters, on a CPU too
            adamw = torch.optim.AdamW(others.values(), lr=rate, weight_decay=decay, fused=True)
            self._parts.append((list(others), adamw))
        if matrices:
            muon = torch.optim.Muon(matrices.values(), lr=rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw")
            self._parts.append((list(matrices), muon))

    def set_rate(self, rate: float) -> None:
        """Set the learning rate of all parameters."""
        for _, optimizer in self._parts:
            for group in optimizer.param_groups:
                group["lr"] = rate

    def zero_grad(self) -> None:
        """Clear the gradients."""
        for _, optimizer in self._parts:
            optimizer.zero_grad()

    def step(self) -> None:
        """Update the parameters."""
        for _, optimizer in self._parts:
            optimizer.step()

    def name_moments(self) -> dict[str, Any]:
        """State of every parameter that has one, by name."""
        moments: dict[str, Any] = {}
        for names, optimizer in self._parts:
            state = optimizer.state_dict()["state"]
            moments |= {name: state[number] for number, name in enumerate(names) if number in state}
        return moments

    def load_moments(self, moments: dict[str, Any]) -> None:
        """Load the state of the parameters that `moments` names."""
        for names, optimizer in self._parts:
            state = {number: moments[name] for number, name in enumerate(names) if name in moments}
            optimizer.load_state_dict(optimizer.state_dict() | {"state": state})


def _is_matrix(name: str, parameter: Parameter) -> bool:
    return parameter.ndim == 2 and min(parameter.shape) > 1 and "embedding" not in name
