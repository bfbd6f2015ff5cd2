"""The relaxation job of GPAW; imports atomate2's ASE jobs, so the engine imports it when used."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from ase.calculators.calculator import Calculator
from atomate2.ase.jobs import AseRelaxMaker
from atomate2.ase.schemas import AseStructureTaskDoc
from jobflow import job
from pydantic import Field
from pymatgen.core import Structure

from e3relax_flows.core.geometry import SWAP
from e3relax_flows.core.optional import require
from e3relax_flows.engines.gpaw_settings import (
    K_LENGTH,
    K_LENGTH_METAL,
    SMEARING,
    choose_settings,
    prepare_magmoms,
)
from e3relax_flows.engines.guards import GuardedRelaxMaker, RightHandedCalculator

SCF_LINE = re.compile(r"^\s*Converged in (\d+) steps", re.MULTILINE)


class GpawTaskDoc(AseStructureTaskDoc):
    """atomate2's document of an ASE relaxation, with the SCF cycles in GPAW's output."""

    n_electronic_steps: int | None = Field(None, description="SCF iterations of all converged cycles")
    n_scf_cycles: int | None = Field(None, description="converged SCF cycles, one per evaluation")
    settings: dict[str, Any] = Field(default_factory=dict, description="keyword arguments given to GPAW")


@dataclass
class GpawRelaxMaker(GuardedRelaxMaker):
    """Relax cell and atoms with GPAW, plane waves; cut-off, k-points and spin follow the structure. PBE is the default.

    Parameters
    ----------
    calculator_kwargs
        Keyword arguments of GPAW that win over the chosen ones.
    k_length
        Å of real space that the k-point grid stands for along each axis.
    k_length_metal
        The same where all elements are metals.
    smearing
        Width of the Fermi-Dirac occupations, eV.
    """

    name: str = "GPAW PBE relax"
    steps: int = 100
    relax_kwargs: dict = field(default_factory=lambda: {"fmax": 0.05, "final_atoms_object_file": None})
    optimizer_kwargs: dict = field(default_factory=lambda: {"optimizer": "BFGS"})
    ionic_step_data: tuple[str, ...] | None = ("energy",)
    k_length: float = K_LENGTH
    k_length_metal: float = K_LENGTH_METAL
    smearing: float = SMEARING

    @job
    def make(self, structure: Structure, prev_dir: str | Path | None = None) -> GpawTaskDoc:
        """Relax a structure as a job; `prev_dir` is there because atomate2's flows pass it, and is not used."""
        prepared, spin_polarized = prepare_magmoms(structure)
        settings = choose_settings(prepared, self.k_length, self.k_length_metal, self.smearing)
        settings |= {"txt": "gpaw.txt"} | ({"spinpol": True} if spin_polarized else {}) | self.calculator_kwargs
        relax = AseRelaxMaker.make.original  # type: ignore[attr-defined]
        self._calculator = build_calculator(prepared, settings)
        try:
            document = relax(self, prepared, prev_dir)
        except Exception as error:
            if type(error).__name__ != "SymmetryAnalysisBug":
                raise
            # operations that hold within a tolerance only need not be a group; without them there are more k-points
            settings |= {"symmetry": "off"}
            self._calculator = build_calculator(prepared, settings)
            document = relax(self, prepared, prev_dir)
        counts = count_scf_iterations(settings["txt"])
        return GpawTaskDoc(
            **dict(document),
            n_electronic_steps=sum(counts) if counts else None,
            n_scf_cycles=len(counts) if counts else None,
            settings=settings,
        )


def build_calculator(structure: Structure, settings: dict[str, Any]) -> Calculator:
    """GPAW for the structure; in a left-handed cell two axes, and their k-points, are exchanged."""
    gpaw = require("gpaw", "gpaw", "engine 'gpaw'")
    if "xc" in settings:
        settings = settings | {"xc": choose_datasets(settings["xc"], structure)}
    if np.linalg.det(structure.lattice.matrix) > 0:
        return gpaw.GPAW(**settings)
    kpts = settings["kpts"]
    if isinstance(kpts, Mapping) and "size" in kpts:
        settings = settings | {"kpts": {**kpts, "size": [kpts["size"][axis] for axis in SWAP]}}
    return RightHandedCalculator(gpaw.GPAW(**settings))


def choose_datasets(xc: Any, structure: Structure) -> Any:
    """The functional for GPAW; with datasets of PBE, as VASP does it, where an element has none of the functional.

    gpaw-data has datasets of LDA, PBE, revPBE, RPBE and GLLBSC, and GPAW refuses a functional without its datasets.
    """
    from gpaw import setup_paths
    from gpaw.dft import XC

    if not isinstance(xc, str | Mapping):
        return xc

    def has_dataset(name: str) -> bool:
        return any((Path(folder) / f"{name}{end}").exists() for folder in setup_paths for end in ("", ".gz"))

    class WithDatasets(XC):
        def functional(self, **kwargs: Any) -> Any:
            found = super().functional(**kwargs)
            kind = found.get_setup_name()
            if not all(has_dataset(f"{element.symbol}.{kind}") for element in structure.composition.elements):
                found.get_setup_name = lambda: "PBE"
            return found

    return WithDatasets(**({"name": xc} if isinstance(xc, str) else xc))


def count_scf_iterations(path: str | Path | None) -> list[int]:
    """SCF iterations of each converged cycle in a GPAW output file; empty if there is no file."""
    if path is None or not Path(path).is_file():
        return []
    return [int(count) for count in SCF_LINE.findall(Path(path).read_text())]
