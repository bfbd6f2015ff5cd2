"""GPAW: real DFT without a licence, plane waves and PBE, through atomate2's ASE jobs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from pymatgen.core import Structure

from e3relax_flows.core.optional import require
from e3relax_flows.engines.ase_documents import read_ase_documents
from e3relax_flows.engines.base import Engine, get_entry
from e3relax_flows.engines.gpaw_labels import list_gpaw_conditions, name_gpaw_functional
from e3relax_flows.engines.gpaw_settings import K_LENGTH, K_LENGTH_METAL, check_datasets, prepare_magmoms
from e3relax_flows.schemas.outcomes import RelaxationResult


@dataclass
class GpawEngine(Engine):
    """GPAW with PBE; the cut-off follows the elements, the k-points the cell, the spin the magmom site property."""

    is_dft: ClassVar[bool] = True
    code: ClassVar[str] = "GPAW"

    def check(self, structure: Structure) -> None:
        """Refuse elements without a PBE dataset, and noncollinear moments."""
        check_datasets(structure)
        prepare_magmoms(structure)

    def read(self, documents: list[Any]) -> RelaxationResult:
        """Read GPAW's task documents; electronic steps are the SCF iterations counted in its output."""
        last = next((document for document in reversed(documents) if document is not None), None)
        settings = {**getattr(self.maker, "calculator_kwargs", {}), **(get_entry(last, "settings") or {})}
        functional = name_gpaw_functional(settings, "PBE") or "PBE"
        conditions = list_gpaw_conditions(settings)
        return read_ase_documents(documents, self.code, functional, is_dft=True, conditions=conditions)


def build_gpaw(
    name: str = "gpaw",
    fmax: float = 0.05,
    steps: int = 100,
    time_limit_s: float | None = None,
    k_length: float = K_LENGTH,
    k_length_metal: float = K_LENGTH_METAL,
    calculator_kwargs: dict[str, Any] | None = None,
) -> GpawEngine:
    """GPAW engine: largest force in eV/Å, most steps, most seconds, Å of real space per k-point axis."""
    require("gpaw", "gpaw", "engine 'gpaw'")
    from e3relax_flows.engines.gpaw_jobs import GpawRelaxMaker

    maker = GpawRelaxMaker(
        steps=steps,
        time_limit_s=time_limit_s,
        k_length=k_length,
        k_length_metal=k_length_metal,
        calculator_kwargs=dict(calculator_kwargs or {}),
        relax_kwargs={"fmax": fmax, "final_atoms_object_file": None},
    )
    return GpawEngine(name=name, maker=maker)
