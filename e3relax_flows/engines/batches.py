"""Potentials that are evaluated for many crystals at once.

On a CPU CHGNet's own batches are not faster than one crystal after the other (1.02 for eight crystals), so it is not
included here. Imports ASE and the package of the potential, so it is imported only when it is used.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.stress import full_3x3_to_voigt_6_stress

from e3relax_flows.core.errors import EngineError
from e3relax_flows.core.geometry import Array
from e3relax_flows.engines.potentials import Potential

logger = logging.getLogger(__name__)

# Atoms in a batch. On a CPU 128 were faster than 64; larger ones, and those of a GPU, were not compared.
MAX_ATOMS = {"cpu": 128, "cuda": 4_000}


class Evaluation(NamedTuple):
    """Energy, forces and stress of one crystal."""

    energy: float  # eV
    forces: Array  # [n_atoms, 3] eV/Å
    stress: Array  # [3, 3] eV/Å³, symmetric; positive where the cell tends to shrink, as in ASE


class Batches(Protocol):
    """A potential that evaluates several crystals at once; `max_atoms` is the size of its batch."""

    name: str
    device: Any
    max_atoms: int

    def evaluate(self, crystals: Sequence[Atoms]) -> Sequence[Evaluation]:
        """Evaluation of each crystal."""
        ...


class EvaluatedCalculator(Calculator):
    """An ASE calculator whose energy, forces and stress come at once, from `evaluate`."""

    def __init__(self, batches: Batches) -> None:
        super().__init__()
        self.implemented_properties = ["energy", "free_energy", "forces", "stress"]
        self.batches, self.device = batches, batches.device

    @property
    def name(self) -> str:
        """The name of the potential's own calculator, for documents."""
        return self.batches.name

    def evaluate(self, atoms: Atoms) -> Evaluation:
        """Evaluation of one crystal: a batch of one."""
        return self.batches.evaluate([atoms])[0]

    def calculate(self, atoms: Any = None, properties: Any = None, system_changes: Any = all_changes) -> None:
        """Fill in energy in eV, forces in eV/Å and stress in eV/Å³."""
        super().calculate(atoms, properties, system_changes)
        found = self.evaluate(self.atoms)
        self.results = {
            "energy": found.energy,
            "free_energy": found.energy,
            "forces": np.asarray(found.forces, dtype=float),
            "stress": full_3x3_to_voigt_6_stress(np.asarray(found.stress, dtype=float)),
        }


def load_batches(potential: Potential, device: str = "auto") -> Batches | None:
    """The batched evaluation of `potential`; None if there is none."""
    family = potential.family
    if family is None or family.name != "SevenNet" or potential.weights is None or potential.kwargs:
        return None
    from e3relax_flows.engines.sevennet_batches import SevenNetBatches
    from e3relax_flows.graphs.devices import resolve_device

    resolved = resolve_device(device)
    try:
        return SevenNetBatches(potential.weights, potential.info.modal, str(resolved), MAX_ATOMS[resolved.type])
    except EngineError as error:
        logger.info("potential %s: evaluated for one crystal at a time, %s", potential.label, error)
        return None
