"""GPAW: real DFT without a licence, plane waves and PBE, through atomate2's ASE jobs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field
from pymatgen.core import Structure

from e3relax_flows.core.functionals import spell_functional
from e3relax_flows.core.optional import require
from e3relax_flows.engines.ase_documents import Free, hold_cell, read_ase_documents
from e3relax_flows.engines.base import Engine, get_entry
from e3relax_flows.engines.gpaw_settings import K_LENGTH, K_LENGTH_METAL, check_datasets, prepare_magmoms
from e3relax_flows.schemas.outcomes import RelaxationResult


@dataclass
class GpawEngine(Engine):
    """GPAW, by default with PBE; cut-off, k-points and spin follow elements, cell and the magmom site property."""

    is_dft: ClassVar[bool] = True
    code: ClassVar[str] = "GPAW"

    def check(self, structure: Structure) -> None:
        """Refuse elements without a PBE dataset, and noncollinear moments."""
        check_datasets(structure)
        prepare_magmoms(structure)

    @property
    def functional(self) -> str | None:
        """PBE, unless the arguments of GPAW name another one."""
        return name_gpaw_functional(getattr(self.maker, "calculator_kwargs", {}), "PBE")

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


def name_gpaw_functional(settings: Mapping[str, Any], default: str | None = None) -> str | None:
    """Functional of GPAW's keyword arguments, with +U where `setups` sets it."""
    xc = settings.get("xc", default)
    name = (xc.get("name") or xc.get("type")) if isinstance(xc, Mapping) else xc
    if not name:
        return None
    setups = settings.get("setups")
    words = setups.values() if isinstance(setups, Mapping) else [setups]
    has_u = any(isinstance(word, str) and ":" in word for word in words)  # such as ":d,4.0"
    return spell_functional(f"{name}+U" if has_u else str(name))


def list_gpaw_conditions(settings: Mapping[str, Any]) -> list[str]:
    """Why the minimum is not that of the functional alone; empty as a rule."""
    found = []
    if charge := settings.get("charge"):
        found.append(f"a charge of {charge:+g}")
    if settings.get("external") is not None:
        found.append("an external field")
    for name in ("occupations", "poissonsolver"):
        content = settings.get(name)
        for key in ("fixmagmom", "dipolelayer"):
            if isinstance(content, Mapping) and content.get(key):
                found.append(f"{name} with {key} = {content[key]}")
    if settings.get("hund"):
        found.append("hund = True: moments of free atoms")
    if settings.get("experimental"):
        found.append(f"experimental = {settings['experimental']}: moments of any direction, or spin-orbit coupling")
    return found
