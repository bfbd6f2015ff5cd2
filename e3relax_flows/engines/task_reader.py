"""Read any one task document of a job store as a relaxation: DFT codes and force fields, recognised by content."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from monty.json import MSONable

from e3relax_flows.core.errors import EngineError, StartUnknownError
from e3relax_flows.engines.ase_documents import read_ase_documents, read_potential
from e3relax_flows.engines.base import get_entry
from e3relax_flows.engines.dft_documents import find_form, read_dft_documents
from e3relax_flows.engines.dft_functionals import AIMS_SETTINGS
from e3relax_flows.engines.gpaw import list_gpaw_conditions, name_gpaw_functional
from e3relax_flows.engines.vasp_documents import (
    POTCAR_ENTRIES,
    is_relaxation,
    read_original,
    read_vasp_documents,
    was_restarted,
)
from e3relax_flows.engines.vasp_functionals import SETTINGS
from e3relax_flows.schemas.outcomes import RelaxationResult

# where the start of a relaxation may be, the most reliable first
STARTS = (
    ("orig_inputs", "structure"),
    ("orig_inputs", "poscar", "structure"),
    ("input", "mol_or_struct"),
    ("input", "structure"),
    ("calc_inputs", "structure"),  # JDFTx
)
# ASE's names of calculators that are not DFT and have makers in atomate2
POTENTIALS = {"emt": "EMT", "lennardjones": "LennardJones", "tblite": "TBLite"}
COMMON_FIELDS = ("state", "dir_name", "structure", "output.energy")
VASP_INPUTS = ("input", "orig_inputs", "calcs_reversed.input")
VASP_FIELDS = (
    *("task_type", "run_type", "vasp_version", "calcs_reversed.vasp_version", "output.structure"),
    *("output.forces", "output.stress", "orig_inputs.structure", "orig_inputs.poscar", "input.structure"),
    *("custodian.corrections", "run_stats.overall.elapsed_time", "input.xc_override", "input.is_hubbard"),
    *(f"{inputs}.incar" for inputs in VASP_INPUTS),
    *(f"{inputs}.parameters.{name}" for inputs in ("input", "calcs_reversed.input") for name in SETTINGS),
    *(f"{inputs}.{name}" for inputs in VASP_INPUTS for name in POTCAR_ENTRIES if name != "potcar_spec"),
    *(f"{inputs}.potcar_spec.{name}" for inputs in VASP_INPUTS for name in ("titel", "hash", "functional", "lexch")),
    *("calcs_reversed.input.structure", "calcs_reversed.output.num_electronic_steps"),
    "calcs_reversed.has_vasp_completed",
    *("calcs_reversed.output.ionic_steps.e_0_energy", "calcs_reversed.output.ionic_steps.num_electronic_steps"),
    "calcs_reversed.output.ionic_steps.electronic_steps.e_0_energy",
)
ASE_FIELDS = (
    *("input.mol_or_struct", "input.relax_cell", "input.relax_shape", "input.steps", "output.n_steps"),
    *("output.elapsed_time", "forcefield_name", "ase_calculator_name", "n_electronic_steps"),
    *("input.relax_kwargs.filter_kwargs", "settings"),
    "potential",
)

DFT_FIELDS = (
    *(
        "input.xc",
        "input.atomic_kind_info",
        "calcs_reversed.input.cp2k_global",
        "calcs_reversed.input.cp2k_input.subsections.MOTION",
        "calcs_reversed.input.cp2k_input.subsections.FORCE_EVAL",
    ),
    *("calcs_reversed.output.ionic_steps.E", "has_relaxed", "run_stats.overall.total_time"),
    *("input.abinit_input.abi_args", "n_ionic_steps", "wall_time_s", "output.trajectory.charge"),
    *(f"input.parameters.{name}" for name in ("xc", "relax_geometry", "relax_unit_cell", *AIMS_SETTINGS)),
    *("calc_inputs.structure", "calc_outputs.structure", "calc_outputs.energy", "calc_outputs.parameters"),
    *("calc_outputs.trajectory", "calc_inputs.jdftxinfile"),
)


@dataclass
class TaskReader(MSONable):
    """Reads the output of one job of atomate2, or of ours, as a relaxation.

    Attributes
    ----------
    fields
        Dotted paths below the output that reading needs: a tenth of a VASP document.

    Examples
    --------
    The document of a job of atomate2 as a relaxation:

    >>> import tempfile
    >>> from pathlib import Path
    >>> from pymatgen.core import Lattice, Structure
    >>> from e3relax_flows import TaskReader, isolate_stores, open_job_store, run_flow_locally
    >>> from e3relax_flows.testing import make_emt_maker
    >>> copper = Structure(Lattice.rhombohedral(2.7, 60), ["Cu"], [[0, 0, 0]])
    >>> settings = isolate_stores(Path(tempfile.mkdtemp()))
    >>> with open_job_store(settings) as store:
    ...     _ = run_flow_locally(make_emt_maker().make(copper), store, Path("runs/copper"))
    ...     result = TaskReader().read(store.query_one({"name": "EMT relax"})["output"])
    >>> result.code, result.converged, result.is_dft
    ('EMT', True, False)
    """

    fields: ClassVar[tuple[str, ...]] = (*COMMON_FIELDS, *VASP_FIELDS, *ASE_FIELDS, *DFT_FIELDS)

    def read(self, document: Mapping[str, Any]) -> RelaxationResult | None:
        """Result of one document, in the code's site order; None if it is not a relaxation that can be read.

        Raises
        ------
        StartUnknownError
            When custodian fixed a VASP run of which the original input was not kept.
        EngineError
            When the document is one of a relaxation, but incomplete.
        """
        try:
            if is_vasp(document):
                return _read_vasp(document)
            if (form := find_form(document)) is not None:
                return read_dft_documents([document], form.code) if form.relaxes(document) else None
            return _read_ase(document) if get_entry(document, "input", "mol_or_struct") is not None else None
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            where = get_entry(document, "dir_name")
            raise EngineError(f"the document of {where} is incomplete ({type(error).__name__}: {error})") from error

    def measure_start(self, document: Mapping[str, Any]) -> float | None:
        """Volume in Å^3 at which the relaxation of a document began; None if it does not hold it."""
        for path in STARTS:
            if (matrix := get_entry(document, *path, "lattice", "matrix")) is not None:
                return abs(float(np.linalg.det(matrix)))
        return None


def is_vasp(document: Mapping[str, Any]) -> bool:
    """Whether a task document is one of VASP; other codes of emmet have the same form."""
    if get_entry(document, "vasp_version") is not None:
        return True
    return any(get_entry(run, "vasp_version") for run in get_entry(document, "calcs_reversed") or [])


def _read_vasp(document: Mapping[str, Any]) -> RelaxationResult | None:
    if not is_relaxation(document):
        return None
    if was_restarted(document) and read_original(document) is None:
        raise StartUnknownError(
            f"custodian fixed the VASP run of {get_entry(document, 'dir_name')}, and its original POSCAR was not kept"
        )
    return read_vasp_documents([document])


def _read_ase(document: Mapping[str, Any]) -> RelaxationResult | None:
    if (get_entry(document, "input", "steps") or 0) <= 1:  # a single point
        return None
    calculator = str(get_entry(document, "ase_calculator_name"))
    info = read_potential(document)
    name = get_entry(document, "forcefield_name") or POTENTIALS.get(calculator.lower())
    if info is not None or name is not None:
        label = info.label if info is not None else str(name).removeprefix("MLFF.")
        result = read_ase_documents([document], label, f"{label} (not DFT)", is_dft=False)
        return result.model_copy(update={"potential": info})
    settings = get_entry(document, "settings") or {}
    functional = name_gpaw_functional(settings)
    if functional is None:
        raise EngineError(
            f"the document of {get_entry(document, 'dir_name')} is of ASE's calculator {calculator!r} and does not "
            "name its functional; only documents of GPAW and of force fields are read"
        )
    conditions = list_gpaw_conditions(settings)
    return read_ase_documents([document], "GPAW", functional, is_dft=True, conditions=conditions)
