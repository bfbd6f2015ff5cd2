"""An ASE calculator of SevenNet's potentials on the CPU, with convolutions per pair of atoms; half of the time.

Imports torch and sevenn, so it is imported only when it is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.stress import full_3x3_to_voigt_6_stress

from e3relax_flows.engines.sevennet_batches import SevenNetBatches


class PairSevenNetCalculator(Calculator):
    """SevenNet's energies, forces and stresses of periodic crystals, as its own calculator gives them.

    Parameters
    ----------
    weights, modal, device
        As of SevenNetBatches.

    Raises
    ------
    EngineError
        When the network has other convolutions than those that can be evaluated per pair.
    """

    name = "SevenNetCalculator"

    def __init__(self, weights: Path | str, modal: str | None = None, device: str = "cpu") -> None:
        super().__init__()
        self.implemented_properties = ["energy", "free_energy", "forces", "stress"]
        self.batches = SevenNetBatches(weights, modal, device)
        self.device, self.cutoff = self.batches.device, self.batches.cutoff

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Evaluate everything at once (eV, eV/Å, eV/Å³)."""
        super().calculate(atoms, properties, system_changes)
        (found,) = self.batches.evaluate([self.atoms])
        self.results = {
            "energy": found.energy,
            "free_energy": found.energy,
            "forces": found.forces,
            "stress": full_3x3_to_voigt_6_stress(found.stress),
        }
