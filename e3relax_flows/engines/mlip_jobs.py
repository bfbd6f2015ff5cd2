"""The relaxation job of potentials; imports atomate2's force fields, so engines import it when used."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ase.calculators.calculator import Calculator
from atomate2.forcefields.jobs import ForceFieldRelaxMaker
from atomate2.forcefields.schemas import ForceFieldTaskDocument
from jobflow import job
from pymatgen.core import Structure

from e3relax_flows.engines.guards import GuardedRelaxMaker, RightHandedCalculator


@dataclass
class PotentialRelaxMaker(GuardedRelaxMaker, ForceFieldRelaxMaker):
    """atomate2's ForceFieldRelaxMaker with a time limit, a largest deformation and right-handed axes.

    Parameters beyond atomate2's are those of GuardedRelaxMaker. Unlike atomate2's, the job needs no additional
    store: of the steps it keeps the energies only.
    """

    name: str = "potential relax"
    force_field_name: str | Any = "CHGNet"
    steps: int = 300
    relax_kwargs: dict = field(default_factory=lambda: {"fmax": 0.05, "final_atoms_object_file": None})
    optimizer_kwargs: dict = field(default_factory=lambda: {"optimizer": "BFGS"})
    ionic_step_data: tuple[str, ...] | None = ("energy",)
    time_limit_s: float | None = 300.0

    @job
    def make(self, structure: Structure, prev_dir: str | Path | None = None) -> ForceFieldTaskDocument:
        """Relax a structure as a job; `prev_dir` is there because atomate2's flows pass it, and is not used."""
        return ForceFieldRelaxMaker.make.original(self, structure, prev_dir)  # type: ignore[attr-defined]

    def _get_calculator(self) -> Calculator:
        with contextlib.redirect_stdout(io.StringIO()):  # CHGNet greets
            return RightHandedCalculator(super()._get_calculator())
