"""Task documents of CP2K, FHI-aims and JDFTx as atomate2's schemas write them, built without the codes."""

from __future__ import annotations

from typing import Any

from monty.json import jsanitize
from pymatgen.core import Structure
from pymatgen.io.cp2k.inputs import Cp2kInput


def aims_output(start: Structure, end: Structure, n_steps: int = 4, **parameters: Any) -> dict[str, Any]:
    """What atomate2's AimsTaskDoc holds of a relaxation."""
    given = {"xc": "pbesol", "relax_geometry": "trm 5e-3", "relax_unit_cell": "full", "k_grid": [4, 4, 4]}
    path = [start, *[end] * (n_steps - 1)]
    output = {
        "@module": "atomate2.aims.schemas.task",
        "@class": "AimsTaskDoc",
        "calc_code": "aims",
        "formula_pretty": start.composition.reduced_formula,
        "nsites": len(start),
        "dir_name": "host:/scratch/aims",
        "state": "successful",
        "structure": end.as_dict(),
        "input": {
            "structure": start.as_dict(),
            "parameters": {**given, **parameters},
            "xc": str(({**given, **parameters})["xc"]),
        },
        "output": {
            "structure": end.as_dict(),
            "energy": -16900.5,
            "trajectory": [each.as_dict() for each in path],
        },
        "aims_objects": None,
    }
    return jsanitize(output)


def jdftx_output(start: Structure, end: Structure, n_steps: int = 5, **update: Any) -> dict[str, Any]:
    """What atomate2's JDFTx TaskDoc holds of a lattice minimisation."""
    output = {
        "@module": "atomate2.jdftx.schemas.task",
        "@class": "TaskDoc",
        "formula_pretty": start.composition.reduced_formula,
        "nsites": len(start),
        "dir_name": "/scratch/jdftx",
        "calc_inputs": {"structure": start.as_dict(), "jdftxinfile": {"elec-ex-corr": "gga-PBE"}},
        "calc_outputs": {
            "structure": end.as_dict(),
            "energy": -410.25,
            "energy_type": "F",
            "parameters": {"xc_func": "gga-PBE", "converged": True, "t_s": 81.5, "geom_opt": True},
            "trajectory": {"coords": [end.frac_coords.tolist()] * n_steps, "species": ["Na", "Cl"]},
        },
        "task_type": "Lattice Optimization",
        "state": None,
    }
    return jsanitize(output | update)


def cp2k_output(
    start: Structure, end: Structure, n_steps: int = 6, motion: str = "", run_type: str = "CELL_OPT"
) -> dict[str, Any]:
    """What atomate2's TaskDocument holds of a CP2K run; its input is parsed by pymatgen from CP2K's own text."""
    text = f"&GLOBAL\n  RUN_TYPE {run_type}\n&END GLOBAL\n&MOTION\n  &{run_type}\n    MAX_ITER 20\n{motion}"
    given = Cp2kInput.from_str(f"{text}  &END {run_type}\n&END MOTION\n")
    run = {
        "cp2k_version": "2023.1",
        "input": {
            "structure": start.as_dict(),
            "cp2k_input": given.as_dict(),
            "cp2k_global": {"Run_type": run_type},
        },
        "output": {"ionic_steps": [{"E": -215.0 - 0.01 * i} for i in range(n_steps - 1)], "scf": [-7.9]},
    }
    output = {
        "@module": "atomate2.cp2k.schemas.task",
        "@class": "TaskDocument",
        "formula_pretty": start.composition.reduced_formula,
        "nsites": len(start),
        "dir_name": "host:/scratch/cp2k",
        "state": "successful",
        "structure": end.as_dict(),
        "input": {"structure": start.as_dict(), "xc": "PBE", "atomic_kind_info": {"atomic_kinds": {}}},
        "output": {"structure": end.as_dict(), "energy": -215.25},
        "run_stats": {"overall": {"total_time": 92.0}},
        "calcs_reversed": [run],
    }
    return jsanitize(output, strict=True)
