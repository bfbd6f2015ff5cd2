"""Potentials in place of DFT: CHGNet through atomate2's force-field maker; never DFT, and labelled so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from pymatgen.core import Structure

from e3relax_flows.core.errors import EngineError
from e3relax_flows.core.optional import require
from e3relax_flows.engines.ase_documents import read_ase_documents
from e3relax_flows.engines.base import Engine
from e3relax_flows.schemas.outcomes import RelaxationResult

# elements without a structure in CHGNet's training set
UNTRAINED = {"Po", "At", "Rn", "Fr", "Ra"}
LAST_TRAINED_Z = 94


@dataclass
class MlipEngine(Engine):
    """CHGNet, or another potential by `maker`: fast, for demonstrations and tests of flows; not DFT."""

    is_dft: ClassVar[bool] = False
    code: ClassVar[str] = "CHGNet"

    def check(self, structure: Structure) -> None:
        """Refuse elements that CHGNet has not learnt."""
        unknown = sorted(
            element.symbol
            for element in structure.composition.element_composition
            if element.Z > LAST_TRAINED_Z or element.symbol in UNTRAINED
        )
        if unknown and self._potential() == "CHGNet":
            raise EngineError(
                f"{structure.composition.reduced_formula}: CHGNet was not trained on {', '.join(unknown)}; "
                "use a DFT engine for it (list them with: e3relax doctor)"
            )

    def read(self, documents: list[Any]) -> RelaxationResult:
        """Read force-field task documents; a relaxation has evaluations, but no electronic steps."""
        potential = self._potential()
        return read_ase_documents(documents, potential, f"{potential} (not DFT)", is_dft=False)

    def _potential(self) -> str:
        return str(getattr(self.maker, "force_field_name", self.code)).removeprefix("MLFF.")


def build_mlip(
    name: str = "chgnet", fmax: float = 0.02, steps: int = 300, time_limit_s: float | None = 300.0
) -> MlipEngine:
    """CHGNet engine: largest force in eV/Å, most steps, and most seconds per structure."""
    require("chgnet", "mlip", "engine 'chgnet'")
    from e3relax_flows.engines.mlip_jobs import PotentialRelaxMaker

    maker = PotentialRelaxMaker(
        name="CHGNet relax",
        force_field_name="CHGNet",
        steps=steps,
        time_limit_s=time_limit_s,
        relax_kwargs={"fmax": fmax, "final_atoms_object_file": None},
        # without neighbours there are no forces, so a cell that flew apart would count as relaxed
        calculator_kwargs={"on_isolated_atoms": "error"},
    )
    return MlipEngine(name=name, maker=maker)
