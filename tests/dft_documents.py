"""Task documents of FHI-aims and JDFTx as atomate2's schemas write them, built without the codes."""

from __future__ import annotations

from typing import Any

from monty.json import jsanitize
from pymatgen.core import Structure


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
