"""Documents as atomate2's jobs leave them in a job store, written by hand: the fields that reading needs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from emmet.core.vasp.calc_types import run_type
from monty.json import jsanitize
from pymatgen.core import Lattice, Structure
from pymatgen.io.vasp import Poscar

MINIMUM = 5.62  # Å, where `relax_salt` ends
PBE_TITLES = ("PAW_PBE Na_pv 19Sep2006", "PAW_PBE Cl 06Sep2000")
LDA_TITLES = ("PAW Na_pv 19Dec2003", "PAW Cl 21Jan2003")
PW91_TITLES = ("PAW_GGA Na_pv 05Jan2001", "PAW_GGA Cl 21Jan2003")


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


def emmet_output(
    release: str, start: Structure, end: Structure, incar: dict[str, Any], titles: Sequence[str] = PBE_TITLES
) -> dict[str, Any]:
    """A task document of VASP in the form of a release of emmet: 0.88, 0.87, 0.84 (with `poscar`) or 0.70.

    The frames begin after a restart by custodian, so that the original POSCAR alone holds the true start.
    """
    middle = relax_salt(start, 0.5 * (MINIMUM + (4 * start.volume) ** (1 / 3)))
    parameters = {"NSW": 99, "IBRION": 2, "ISIF": 3, "GGA": "--", "EFIELD": 0.0, "PSTRESS": 0.0, "LDAU": False, **incar}
    specs = [{"titel": title, "hash": None, "summary_stats": None} for title in titles]
    kinds = [title.split()[0] for title in titles]
    inputs = {"incar": incar, "parameters": parameters, "potcar_spec": specs, "potcar_type": kinds[:1]}
    new = inputs | {"structure": middle.as_dict(), "potcar": [title.split()[1] for title in titles]}
    output = vasp_output(start, end, custodian=[{"corrections": [{"errors": ["unconverged"]}], "job": {}}])
    output["calcs_reversed"][0]["input"] = new
    output["run_type"] = run_type(parameters).value
    if release in ("0.88", "0.87"):
        output |= {"input": new, "orig_inputs": new | {"structure": start.as_dict(), "parameters": None}}
        return jsanitize(output)
    functional = "_".join(kinds[0].partition("_")[2])  # as emmet wrote it: P_B_E
    poscar = Poscar(start).as_dict()
    summary = {"pot_type": "PAW", "functional": functional, "symbols": new["potcar"]}
    output["input"] = {
        "structure": middle.as_dict(), "parameters": parameters, "pseudo_potentials": summary, "potcar_spec": specs,
        "xc_override": str(incar["GGA"]).upper() if "GGA" in incar else None, "is_hubbard": False, "hubbards": {},
    }  # fmt: skip
    output["orig_inputs"] = {"incar": incar, "poscar": poscar, "kpoints": None, "potcar": specs}
    output["run_type"] = output["run_type"].replace("PBEsol", "PBESol").replace("r2SCAN", "R2SCAN")
    if release == "0.84":
        output["orig_inputs"]["structure"] = None
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
