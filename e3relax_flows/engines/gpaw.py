"""GPAW: real DFT without a licence, plane waves and PBE, through atomate2's ASE jobs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field
from pymatgen.core import Structure

from e3relax_flows.core.optional import require
from e3relax_flows.engines.ase_documents import Free, hold_cell, read_ase_documents
from e3relax_flows.engines.base import Engine, get_entry
from e3relax_flows.engines.gpaw_functionals import list_gpaw_conditions, name_gpaw_functional
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


class GpawConfig(BaseModel):
    """Settings of GPAW's engine."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = "gpaw"
    fmax: float = Field(0.05, gt=0, description="largest force, eV/Å")
    steps: int = Field(100, ge=1, description="most steps")
    time_limit_s: float | None = Field(None, ge=0, description="most seconds per structure")
    k_length: float = Field(K_LENGTH, gt=0, description="Å of real space per k-point axis")
    k_length_metal: float = Field(K_LENGTH_METAL, gt=0, description="the same where all elements are metals")
    free: Free = Field("all", description="cell: all; shape (at its volume); volume (at its shape); sites (no cell)")
    calculator_kwargs: dict[str, Any] = Field(default_factory=dict, description="arguments of GPAW that win")

    def build(self) -> GpawEngine:
        """The engine.

        Raises
        ------
        MissingDependencyError
            When GPAW is not installed.
        """
        require("gpaw", "gpaw", "engine 'gpaw'")
        from e3relax_flows.engines.gpaw_jobs import GpawRelaxMaker

        held = hold_cell(self.free)
        maker = GpawRelaxMaker(
            relax_cell=held["relax_cell"],
            relax_kwargs={"fmax": self.fmax, "final_atoms_object_file": None, **held["relax_kwargs"]},
            **self.model_dump(include={"steps", "time_limit_s", "k_length", "k_length_metal", "calculator_kwargs"}),
        )
        return GpawEngine(name=self.name, maker=maker)
