"""Documents as atomate2's jobs leave them in a job store, written by hand: the fields that reading needs."""

from __future__ import annotations

from typing import Any

from monty.json import jsanitize
from pymatgen.core import Lattice, Structure

MINIMUM = 5.62  # Å, where `relax_salt` ends


def build_salt(a: float = 5.9, elements: tuple[str, str] = ("Na", "Cl")) -> Structure:
    """Rock salt in its primitive cell, with the lattice constant of the conventional one."""
    lattice = Lattice([[0, a / 2, a / 2], [a / 2, 0, a / 2], [a / 2, a / 2, 0]])
    return Structure(lattice, elements, [[0, 0, 0], [0.5, 0.5, 0.5]])


def relax_salt(structure: Structure, a: float = MINIMUM) -> Structure:
    """The same sites at another lattice constant."""
    return Structure(build_salt(a).lattice, structure.species, structure.frac_coords)


def vasp_output(start: Structure, end: Structure, **update: Any) -> dict[str, Any]:
    """A task document of VASP: two ionic steps, PBE, everything free; dotted names in `update` reach inside."""
    composition = start.composition
    output: dict[str, Any] = {
        "@module": "emmet.core.tasks",
        "@class": "TaskDoc",
        "formula_pretty": composition.reduced_formula,
        "nsites": len(start),
        "task_type": "Structure Optimization",
        "run_type": "PBE",
        "state": "successful",
        "vasp_version": "6.4.2",
        "dir_name": "host:/scratch/run",
        "structure": end.as_dict(),
        "output": {"structure": end.as_dict(), "energy": -6.75},
        "orig_inputs": {"structure": start.as_dict(), "incar": {"ISIF": 3}},
        "input": {"structure": start.as_dict(), "parameters": {"ISIF": 3}, "incar": {"ISIF": 3}},
        "run_stats": {"overall": {"elapsed_time": 12.5}},
        "custodian": [{"corrections": [], "job": {}}],
        "calcs_reversed": [
            {
                "vasp_version": "6.4.2",
                "input": {"structure": start.as_dict()},
                "output": {"ionic_steps": [{"e_0_energy": -6.0, "num_electronic_steps": n} for n in (9, 4)]},
            }
        ],
    }
    for path, value in update.items():
        *parents, last = path.split("__")
        branch = output
        for name in parents:
            branch = branch[name]
        branch[last] = value
    return jsanitize(output)


def potential_output(start: Structure, end: Structure, name: str = "MLFF.CHGNet", **update: Any) -> dict[str, Any]:
    """A task document of a force field."""
    output = {
        "@module": "atomate2.forcefields.schemas",
        "@class": "ForceFieldTaskDocument",
        "formula_pretty": start.composition.reduced_formula,
        "nsites": len(start),
        "forcefield_name": name,
        "ase_calculator_name": name,
        "state": "successful",
        "dir_name": "host:/scratch/ff",
        "structure": end.as_dict(),
        "input": {"mol_or_struct": start.as_dict(), "relax_cell": True, "relax_shape": False, "steps": 300},
        "output": {"energy": -6.5, "n_steps": 6, "elapsed_time": 0.5},
    }
    return jsanitize(output | update)


def gpaw_output(start: Structure, end: Structure, **update: Any) -> dict[str, Any]:
    """A task document of our GPAW job."""
    more = {"@class": "GpawTaskDoc", "settings": {"xc": "PBE"}, "n_electronic_steps": 40, "n_scf_cycles": 5}
    output = potential_output(start, end, "GPAW", **more) | update
    output.pop("forcefield_name")
    return output


def job_document(output: Any, uuid: str, minute: int = 0, **update: Any) -> dict[str, Any]:
    """What jobflow stores of a job that ended at `minute`."""
    document = {
        "uuid": uuid,
        "index": 1,
        "output": output,
        "completed_at": f"2025-11-02T10:{minute:02d}:30.123456",
        "metadata": {},
        "hosts": [],
        "name": "relax",
    }
    return document | update
