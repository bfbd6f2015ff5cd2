"""Which potentials are evaluated for many crystals at once, and what evaluates them.

On a CPU CHGNet's own batches are no faster than one crystal after the other (1.02 for eight crystals), so that it has
none here. Imports ASE and the package of the potential, so it is imported only when it is used.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from ase import Atoms

from e3relax_flows.core.errors import EngineError
from e3relax_flows.core.geometry import Array
from e3relax_flows.engines.potentials import Potential

logger = logging.getLogger(__name__)

# Atoms in a batch. On a CPU more leave its caches.
MAX_ATOMS = {"cpu": 128, "cuda": 4_000}


class Evaluation(NamedTuple):
    """What a potential says of one crystal."""

    energy: float  # eV
    forces: Array  # [n_atoms, 3] eV/Å
    stress: Array  # [3, 3] eV/Å³, symmetric; positive where the cell wants to shrink, as in ASE


class Batches(Protocol):
    """A potential that evaluates several crystals at once; `max_atoms` is what its batch should hold."""

    name: str
    device: Any
    max_atoms: int

    def evaluate(self, crystals: Sequence[Atoms]) -> Sequence[Evaluation]:
        """Evaluation of each crystal."""
        ...


def load_batches(potential: Potential, device: str = "auto") -> Batches | None:
    """What evaluates many crystals at once with the weights of `potential`; None where nothing does."""
    if potential.family is None or potential.family.name != "SevenNet" or potential.weights is None:
        return None
    from e3relax_flows.engines.sevennet_batches import SevenNetBatches
    from e3relax_flows.graphs.devices import resolve_device

    place = resolve_device(device)
    try:
        return SevenNetBatches(potential.weights, potential.info.modal, str(place), MAX_ATOMS[place.type])
    except EngineError as error:
        logger.info("%s is evaluated for one crystal at a time: %s", potential.label, error)
        return None
