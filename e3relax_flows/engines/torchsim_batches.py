"""Relaxations of many crystals at once by TorchSim: each ends by its own limits, and is returned when it ends.

Imports torch_sim, so it is imported only when it is used. atomate2's TorchSimOptimizeMaker gives one document when all
have ended, without steps and limits of each, so that only its choice of models is used; the loop is the one that
TorchSim documents for its InFlightAutoBatcher.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch_sim as ts
from ase import Atoms
from torch_sim.autobatching import BinningAutoBatcher, InFlightAutoBatcher
from torch_sim.optimizers import OPTIM_REGISTRY, Optimizer

from e3relax_flows.core.errors import EngineError
from e3relax_flows.core.geometry import Array, measure_log_strain

# ASE's names; TorchSim 0.6.2's BFGS leaves the cell of all but the largest crystals of a batch as it is
OPTIMIZERS = {"LBFGS": Optimizer.lbfgs, "FIRE": Optimizer.fire}
ROOM = 0.9  # of the memory that was found on a GPU


@dataclass(frozen=True)
class BatchRules:
    """How crystals are relaxed and when one is stopped.

    Attributes
    ----------
    fmax
        Largest force, of the cell's coordinates too, in eV/Å.
    steps
        Most steps of each.
    time_limit_s
        Most seconds per crystal; together they have so many times their number. None: no limit.
    max_strain
        Largest absolute eigenvalue of the logarithmic strain of a cell.
    relax_cell
        False: only the sites move.
    cell
        Arguments of TorchSim's filter: constant_volume, hydrostatic_strain.
    symprec
        Å; the space group is kept. None: it is not.
    room
        Most that a batch may hold, by the measure of TorchSim's batcher: number of atoms times atoms per nm³. None:
        everything on the CPU, what is found to fit on a GPU.
    """

    optimizer: str = "LBFGS"
    fmax: float = 0.02
    steps: int = 300
    time_limit_s: float | None = None
    max_strain: float = 1.0
    relax_cell: bool = True
    cell: dict[str, Any] = field(default_factory=dict)
    symprec: float | None = None
    room: float | None = None


@dataclass
class Track:
    """The geometries of one relaxation: [n_frames] of positions (Å), cells (rows, Å), energies (eV), ... as in ASE."""

    positions: list[Array] = field(default_factory=list)
    cells: list[Array] = field(default_factory=list)
    energies: list[float] = field(default_factory=list)
    forces: list[Array] = field(default_factory=list)  # [n_atoms, 3] eV/Å
    stresses: list[Array] = field(default_factory=list)  # [3, 3] eV/Å³
    converged: bool = False
    message: str = ""
    seconds: float = 0.0

    def drop_last(self) -> None:
        """Remove the last geometry."""
        for frames in (self.positions, self.cells, self.energies, self.forces, self.stresses):
            frames.pop()


def relax_together(model: Any, crystals: Sequence[Atoms], rules: BatchRules) -> Iterator[tuple[int, Track]]:
    """Relax crystals in one batch; index and track of each as it ends.

    Parameters
    ----------
    model
        TorchSim's model of a potential.
    crystals
        Right-handed, periodic in three directions.

    Raises
    ------
    EngineError
        When the optimizer cannot treat crystals of several sizes.
    """
    if rules.optimizer not in OPTIMIZERS:
        raise EngineError(f"optimizer {rules.optimizer!r} cannot relax a batch; use one of {', '.join(OPTIMIZERS)}")
    _, step = OPTIM_REGISTRY[OPTIMIZERS[rules.optimizer]]
    watch = _Watch(rules, len(crystals))
    states, room = _begin(model, crystals, rules)
    ended = [watch.record(index, state) for index, state in enumerate(states)]
    yield from ((index, watch.finish(index)) for index, has_ended in enumerate(ended) if has_ended)
    indices = [index for index, has_ended in enumerate(ended) if not has_ended]
    if not indices:
        return
    batcher = InFlightAutoBatcher(model, memory_scales_with=model.memory_scales_with, max_memory_scaler=room)
    batcher.load_states([states[index] for index in indices])
    batch, _ = batcher.next_batch(None, None)
    while batch is not None:
        batch = step(state=batch, model=model)
        current = [indices[number] for number in batcher.current_idx]
        ended = [watch.record(index, state) for index, state in zip(current, batch.split(), strict=True)]
        batch, _ = batcher.next_batch(batch, torch.tensor(ended, device=batch.device))
        yield from ((index, watch.finish(index)) for index, has_ended in zip(current, ended, strict=True) if has_ended)


def _begin(model: Any, crystals: Sequence[Atoms], rules: BatchRules) -> tuple[list[Any], float]:
    """States of the optimiser at the starts, one per crystal, and how much a batch may hold."""
    state = ts.io.atoms_to_state(list(crystals), model.device, model.dtype)
    if rules.symprec is not None:
        state.constraints = ts.constraints.FixSymmetry.from_state(state, symprec=rules.symprec)
    init, _ = OPTIM_REGISTRY[OPTIMIZERS[rules.optimizer]]
    options = {"cell_filter": ts.CellFilter.frechet, **rules.cell} if rules.relax_cell else {}
    room = rules.room
    if room is None and model.device.type == "cpu":
        room = float("inf")
    batcher = BinningAutoBatcher(
        model, memory_scales_with=model.memory_scales_with, max_memory_scaler=room, max_memory_padding=ROOM
    )
    batcher.load_states(state)
    found: list[Any] = [None] * len(crystals)
    for part, indices in batcher:
        for index, each in zip(indices, init(state=part, model=model, **options).split(), strict=True):
            found[index] = each
    return found, float(batcher.max_memory_scaler)


class _Watch:
    """Records geometries, and detects the end of a relaxation."""

    def __init__(self, rules: BatchRules, n_crystals: int) -> None:
        self.rules = rules
        self.tracks = [Track() for _ in range(n_crystals)]
        self.began = time.monotonic()
        self.limit = float("inf") if rules.time_limit_s is None else rules.time_limit_s * n_crystals
        self.last = self.began

    def record(self, index: int, state: Any) -> bool:
        """Add the geometry of a state of one crystal; return whether its relaxation ends there."""
        track = self.tracks[index]
        track.positions.append(_to_numpy(state.positions))
        track.cells.append(_to_numpy(state.row_vector_cell[0]))
        track.energies.append(float(state.energy[0]))
        track.forces.append(_to_numpy(state.forces))
        track.stresses.append(_to_numpy(state.stress[0]))
        if message := self._find_damage(track):
            track.message = message
            if len(track.energies) > 1:
                track.drop_last()
            return True
        left = state.forces.norm(dim=1).max()
        if self.rules.relax_cell:
            left = torch.maximum(left, state.cell_forces[0].norm(dim=1).max())
        track.converged = bool(left < self.rules.fmax)
        if track.converged:
            return True
        if time.monotonic() - self.began > self.limit:
            track.message = f"time limit of {self.rules.time_limit_s} s per structure"
        elif len(track.energies) > self.rules.steps:
            track.message = f"not converged in {self.rules.steps} steps"
        return bool(track.message)

    def finish(self, index: int) -> Track:
        """The whole track; its time is that since the last one ended, so that the times add up to that of the batch."""
        now = time.monotonic()
        self.tracks[index].seconds, self.last = now - self.last, now
        return self.tracks[index]

    def _find_damage(self, track: Track) -> str:
        start, cell = track.cells[0], track.cells[-1]
        if not (np.isfinite(cell).all() and np.isfinite(track.positions[-1]).all() and np.isfinite(track.energies[-1])):
            return "the step is not finite"
        if np.linalg.det(cell) <= 0:
            return "the cell was turned inside out"
        strain = float(np.abs(np.linalg.eigvalsh(measure_log_strain(start, cell))).max())
        return f"logarithmic strain {strain:.2f} is above {self.rules.max_strain}" * (strain > self.rules.max_strain)


def _to_numpy(values: torch.Tensor) -> Array:
    return values.detach().cpu().numpy().astype(np.float64)
