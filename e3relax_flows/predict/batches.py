"""Apply a network to crystals in batches that fit the memory; an error in one crystal does not affect the others."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from e3relax_flows.core.errors import StructureError
from e3relax_flows.graphs.batching import Crystal, pack_crystals, plan_batches
from e3relax_flows.model.interface import RelaxationNetwork
from e3relax_flows.schemas.predictions import Reason

logger = logging.getLogger(__name__)


class BatchLimits(NamedTuple):
    """Limits of one batch."""

    max_atoms: int
    max_edges: int


# On a CPU larger batches only leave its caches; on a GPU they amortise launches until the memory ends, and a batch
# that does not fit is split.
LIMITS = {"cpu": BatchLimits(1_000, 10_000), "cuda": BatchLimits(40_000, 800_000)}
SLACK = 1.25  # by which a batch may outgrow its limits from one pass to the next before it is split


class Output(NamedTuple):
    """Output of the network for one crystal."""

    positions: NDArray[np.float64]  # [n_atoms, 3] Å, Cartesian
    lattice: NDArray[np.float64]  # [3, 3] Å, rows are the vectors
    expected: NDArray[np.float64] | None = None  # [4] logarithms, as in `Layer`
    embedding: NDArray[np.float64] | None = None  # [n_channels], as in `Layer`


class BatchRunner:
    """Applies a network to crystals; reduces its limits after batches that did not fit.

    Parameters
    ----------
    network
        In evaluation mode, on `device`.
    device
        Device of the batches.
    limits
        Limits of a batch; None: those of the kind of device.
    """

    def __init__(self, network: RelaxationNetwork, device: torch.device, limits: BatchLimits | None = None) -> None:
        self.network = network
        self.device = device
        self.limits = limits or LIMITS[device.type]

    def plan(self, crystals: Sequence[Crystal]) -> Iterator[list[int]]:
        """Indices of batches of crystals whose atoms have similar numbers of edges, so that few slots are empty."""
        order = sorted(range(len(crystals)), key=lambda index: (crystals[index].most_edges, crystals[index].n_edges))
        sizes = [(crystals[index].n_atoms, crystals[index].n_edges) for index in order]
        for batch in plan_batches(sizes, *self.limits):
            yield [order[position] for position in batch]

    def run(self, crystals: Sequence[Crystal]) -> list[Output | StructureError]:
        """Apply the network to one batch: in the order of `crystals`, an error instead of a failed result.

        A batch that fails is halved until only the failing crystal is left. After a lack of memory,
        later batches are kept below two thirds of its size.
        """
        if not crystals:
            return []
        if len(crystals) > 1 and self._is_too_large(crystals):
            return self._run_halves(crystals)
        try:
            return list(self._apply(crystals))
        except Exception as error:
            # the boundary between crystals: an error in one of them must not stop the others
            failure, no_memory = error, is_out_of_memory(error)
            failure.__traceback__ = None  # it holds the tensors of the batch that did not fit
        if no_memory and self.device.type == "cuda":
            torch.cuda.empty_cache()
        if len(crystals) > 1:
            logger.info("batch of %d crystals: failed and halved, %s", len(crystals), failure)
            if no_memory:
                self._lower_limits(crystals)
                logger.info("batches on %s: at most %d atoms and %d edges from now on", self.device, *self.limits)
            return self._run_halves(crystals)
        return [self._describe_failure(crystals[0], failure, no_memory)]

    def _apply(self, crystals: Sequence[Crystal]) -> Iterator[Output]:
        with torch.inference_mode():
            last = self.network(pack_crystals(crystals).to(self.device))[-1]
            positions, lattices = last.positions.double().cpu().numpy(), last.lattices.double().cpu().numpy()
            expected, embeddings = (
                [None] * len(crystals) if values is None else values.double().cpu().numpy()
                for values in (last.expected, last.embedding)
            )
        ends = np.cumsum([crystal.n_atoms for crystal in crystals])[:-1]
        return map(Output, np.split(positions, ends), lattices, expected, embeddings)

    def _run_halves(self, crystals: Sequence[Crystal]) -> list[Output | StructureError]:
        half = len(crystals) // 2
        return self.run(crystals[:half]) + self.run(crystals[half:])

    def _is_too_large(self, crystals: Sequence[Crystal]) -> bool:
        n_atoms, n_edges = _count(crystals)
        return n_atoms > SLACK * self.limits.max_atoms or n_edges > SLACK * self.limits.max_edges

    def _lower_limits(self, crystals: Sequence[Crystal]) -> None:
        n_atoms, n_edges = _count(crystals)
        fill = max(n_atoms / self.limits.max_atoms, n_edges / self.limits.max_edges)
        self.limits = BatchLimits(*(max(1, int(limit * min(fill, 1.0) * 2 / 3)) for limit in self.limits))

    def _describe_failure(self, crystal: Crystal, error: Exception, no_memory: bool) -> StructureError:
        if isinstance(error, StructureError):
            return error
        size = f"{crystal.n_atoms} atoms and {crystal.n_edges} edges"
        if no_memory:
            advice = "use device='cpu' or a smaller cell" if self.device.type == "cuda" else "use a smaller cell"
            return StructureError(Reason.FAILED, f"{size} do not fit the memory of {self.device}; {advice}")
        return StructureError(
            Reason.FAILED,
            f"the network failed on it ({size}): {type(error).__name__}: {error}; "
            "if the structure looks right, please report this with the structure",
        )


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error means that a device or the machine is out of memory."""
    if isinstance(error, torch.cuda.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def _count(crystals: Sequence[Crystal]) -> tuple[int, int]:
    return sum(crystal.n_atoms for crystal in crystals), sum(crystal.n_edges for crystal in crystals)
