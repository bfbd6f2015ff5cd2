"""Reader of emmet's task documents of VASP runs: true start, end, steps, functional, and what was free."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from pymatgen.core import Structure
from pymatgen.io.vasp import Poscar

from e3relax_flows.core.errors import EngineError
from e3relax_flows.engines.base import get_entry, read_plain, read_structure
from e3relax_flows.engines.convergence import ended_by_itself, find_force_limit, is_at_rest
from e3relax_flows.engines.potcars import Potcar, count_electrons, read_potcar_entry
from e3relax_flows.engines.vasp_functionals import VaspRun, is_on, list_conditions, name_functional, tidy_settings
from e3relax_flows.schemas.outcomes import RelaxationResult, add_known
from e3relax_flows.schemas.pairs import Freedom

CODE = "VASP"
# emmet's task types of runs that move atoms; "Deformation" is a relaxation in a fixed cell
RELAXATIONS = ("Structure Optimization", "Deformation")
UNRECOGNIZED = ("Unrecognized", "None")  # those with an ISIF other than 2 and 3
MINIMIZERS = (1, 2, 3)  # values of IBRION
# what ISIF leaves free; 0 to 2 keep the cell
ISIF_FREEDOM = {
    3: Freedom(),
    4: Freedom(volume=False),
    5: Freedom(volume=False, sites=False),
    6: Freedom(sites=False),
    7: Freedom(shape=False, sites=False),
    8: Freedom(shape=False),
}
HELD_CELL = Freedom(volume=False, shape=False)
# where emmet keeps the structure of the original POSCAR: since 0.85, and before
ORIGINALS = (("orig_inputs", "structure"), ("orig_inputs", "poscar"))
# where its releases keep the functional of the POTCARs, the most exact first
POTCAR_ENTRIES = ("potcar_spec", "potcar", "potcar_type", "pseudo_potentials", "pseudo_potential")


def read_vasp_documents(documents: list[Any]) -> RelaxationResult:
    """Turn the documents of the runs of one flow into one result: true start, last relaxation, summed steps.

    The energy is that of the last document with the functional of the last relaxation, so that a static run
    with another functional does not give its energy to a structure that it did not relax.

    Parameters
    ----------
    documents
        In order: pydantic objects or dictionaries, None where a job left no document.

    Raises
    ------
    EngineError
        When no relaxation can be read from the documents.
    """
    found = [document for document in documents if document is not None]
    relaxations = [document for document in found if is_relaxation(document)]
    if not relaxations:
        raise EngineError(
            f"none of {len(documents)} VASP documents is a finished relaxation "
            f"(found: {', '.join(str(read_plain(d, 'task_type')) for d in found) or 'no document'}); "
            "read the error of the first job of the flow"
        )
    if documents[0] is None:
        raise EngineError("the document of the first VASP run is missing, so the start of the relaxation is unknown")
    last = relaxations[-1]
    run = read_run(last)
    functional, unnamed = name_functional(run)
    level = (functional, list_conditions(run))
    relaxed = read_structure(last, "structure") or read_structure(last, "output", "structure")
    if relaxed is None:
        raise EngineError(f"the VASP document of {get_entry(last, 'dir_name')} holds no relaxed structure")
    same = [document for document in found if _identify_functional(document) == level]
    names = [name_functional(read_run(document))[0] for document in relaxations]
    return RelaxationResult(
        initial=read_start(relaxations[0]),
        relaxed=relaxed,
        energy=_read_energy(same[-1]),
        n_ionic_steps=add_known([_count_ionic_steps(document) for document in relaxations]),
        n_electronic_steps=add_known([_count_electronic_steps(document) for document in relaxations]),
        converged=len(found) == len(documents) and _is_converged(last, run, relaxed),
        wall_time_s=add_known([_read_wall_time(document) for document in relaxations]),
        dir_name=get_entry(last, "dir_name"),
        code=CODE,
        functional=functional,
        unnamed=unnamed,
        conditions=level[1],
        is_dft=True,
        free=read_freedom(run),
        parameters=read_parameters(same[-1]),
        functionals=[name for name in names if name is not None],
    )


def is_relaxation(document: Any) -> bool:
    """Whether a task document is of a run that moves atoms or cell towards the minimum."""
    task_type = str(read_plain(document, "task_type"))
    mover = read_setting(document, "IBRION")
    if not task_type.endswith(UNRECOGNIZED):  # emmet calls elastic constants of IBRION = 6 an optimisation
        return task_type.endswith(RELAXATIONS) and (mover is None or int(mover) in MINIMIZERS)
    return mover in MINIMIZERS and (read_setting(document, "NSW") or 0) > 1


def read_run(document: Any) -> VaspRun:
    """Inputs of a document that determine its functional: settings, POTCARs and charge, in any release of emmet."""
    inputs = _list_inputs(document)
    asked, used = _read_settings(inputs)
    if override := get_entry(inputs[0], "xc_override"):
        asked.setdefault("GGA", override)
    if any(get_entry(source, "is_hubbard") for source in inputs):
        asked["LDAU"] = True
    potcars = [
        potcar for source in inputs for name in POTCAR_ENTRIES for potcar in read_potcar_entry(get_entry(source, name))
    ]
    run_type = read_plain(document, "run_type")
    charge = _find_charge(document, asked.get("NELECT", used.get("NELECT")), potcars)
    return VaspRun(asked, used, potcars, None if run_type is None else str(run_type), charge)


def read_original(document: Any) -> Structure | None:
    """The structure of the first POSCAR; None where the document has not kept it."""
    for path in ORIGINALS:
        value = get_entry(document, *path)
        if isinstance(value, str):
            return Poscar.from_str(value).structure
        inner = get_entry(value, "structure")
        structure = read_structure(document, *path, *([] if inner is None else ["structure"]))
        if structure is None:
            continue
        flags = get_entry(value, "selective_dynamics")
        if flags is not None and inner is not None and "selective_dynamics" not in structure.site_properties:
            structure.add_site_property("selective_dynamics", list(flags))
        return structure
    return None


def read_start(document: Any) -> Structure:
    """POSCAR as the job wrote it (.orig), else the first frame of the oldest calculation of the document."""
    if (structure := read_original(document)) is not None:
        return structure
    calculations = get_entry(document, "calcs_reversed") or [None]
    for source in (calculations[-1], document):
        if (structure := read_structure(source, "input", "structure")) is not None:
            return structure
    raise EngineError(f"the VASP document of {get_entry(document, 'dir_name')} does not hold its initial structure")


def was_restarted(document: Any) -> bool:
    """Whether custodian fixed the run, so that the frames in the document may begin after its true start."""
    return any(get_entry(job, "corrections") for job in get_entry(document, "custodian") or [])


def read_setting(document: Any, name: str) -> Any:
    """A setting of VASP, the used value rather than the given one; None if no input in the document has it."""
    asked, used = _read_settings(_list_inputs(document))
    return used.get(name, asked.get(name))


def read_freedom(run: VaspRun) -> Freedom | None:
    """Freedom by ISIF; None if no input has it."""
    isif = run.used.get("ISIF", run.asked.get("ISIF"))
    return None if isif is None else express_freedom(isif, run)


def express_freedom(isif: int, run: VaspRun) -> Freedom:
    """Freedom by VASP's ISIF; a lattice vector that another setting holds means a held shape."""
    free = ISIF_FREEDOM.get(int(isif), HELD_CELL)
    held, allowed = run.get("LATTICE_CONSTRAINTS"), run.get("IOPTCELL")
    flags = held.split() if isinstance(held, str) else held if isinstance(held, list | tuple) else ()
    holds = not all(map(is_on, flags)) or (allowed is not None and is_on(allowed))
    return free.model_copy(update={"shape": False}) if holds else free


def is_at_rest_by(run: VaspRun, relaxed: Structure, forces: Any, stress: Any) -> bool:
    """Whether the last forces (eV/Å) and stress (kbar) are those of a run of VASP with these settings that ended.

    Under PSTRESS the stress is not checked.
    """
    is_pressed = run.find_on("PSTRESS") is not None
    return is_at_rest(relaxed, read_freedom(run), forces, None if is_pressed else stress, find_force_limit(run))


def read_parameters(document: Any) -> dict[str, Any]:
    """Input of energy corrections: Hubbard U (eV, by element), POTCARs by title, and the cutoff (eV)."""
    calculation = (get_entry(document, "calcs_reversed") or [None])[0]
    sources = (get_entry(calculation, "input"), get_entry(document, "input"), get_entry(document, "orig_inputs"))
    specs: list[Any] = next((found for source in sources if (found := get_entry(source, "potcar_spec"))), [])
    hubbards: dict[str, float] = next((found for source in sources if (found := get_entry(source, "hubbards"))), {})
    found = {
        "hubbards": dict(hubbards),
        "potcar_spec": [{key: get_entry(spec, key) for key in ("titel", "hash")} for spec in specs],
        "encut": read_setting(document, "ENCUT"),
    }
    return {key: value for key, value in found.items() if value is not None}


def _identify_functional(document: Any) -> tuple[str | None, list[str]]:
    """Functional and conditions, by which two runs differ."""
    run = read_run(document)
    return name_functional(run)[0], list_conditions(run)


def _list_inputs(document: Any) -> tuple[Any, ...]:
    """Inputs of the last calculation, the most reliable first."""
    calculation = (get_entry(document, "calcs_reversed") or [None])[0]
    return get_entry(document, "input"), get_entry(calculation, "input"), get_entry(document, "orig_inputs")


def _read_settings(inputs: Sequence[Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """INCAR, and the parameters of vasprun.xml."""
    asked: dict[str, Any] = {}
    used: dict[str, Any] = {}
    for source in reversed(inputs):
        for name, settings in (("incar", asked), ("parameters", used)):
            content = get_entry(source, name)
            content = json.loads(content) if isinstance(content, str) else content
            settings |= tidy_settings(content) if isinstance(content, Mapping) else {}
    return asked, used


def _find_charge(document: Any, n_electrons: Any, potcars: list[Potcar]) -> float | None:
    """Electrons removed, by NELECT, else by the structure; None if neither holds them."""
    structure = get_entry(document, "structure") or get_entry(document, "output", "structure")
    if n_electrons is not None:
        n_neutral = count_electrons(potcars, _list_elements(structure))
        if n_neutral is not None:
            return n_neutral - float(n_electrons)
    return get_entry(structure, "charge" if isinstance(structure, Mapping) else "_charge") or None


def _list_elements(structure: Any) -> list[str]:
    """Symbol of each site of a structure or its dictionary; of a mixed one the first."""
    if isinstance(structure, Mapping):
        return [site["species"][0]["element"] for site in structure.get("sites") or []]
    return [site.species.elements[0].symbol for site in structure or []]


def _read_energy(document: Any) -> float | None:
    energy = get_entry(document, "output", "energy")
    if energy is not None and not math.isfinite(energy):
        raise EngineError(f"the VASP document of {get_entry(document, 'dir_name')} has the energy {energy} eV")
    return energy


def _is_converged(document: Any, run: VaspRun, relaxed: Structure) -> bool:
    """Whether the document claims convergence and its own numbers agree."""
    calculation = (get_entry(document, "calcs_reversed") or [None])[0]
    has_ended = read_plain(calculation, "has_vasp_completed") in (None, True, "successful")
    claimed = read_plain(document, "state") == "successful" and has_ended and ended_by_itself(run)
    forces, stress = (get_entry(document, "output", name) for name in ("forces", "stress"))
    return claimed and is_at_rest_by(run, relaxed, forces, stress)


def _count_ionic_steps(document: Any) -> int | None:
    return add_known(
        [
            len(steps) if (steps := get_entry(calculation, "output", "ionic_steps")) else _count_cycles(calculation)
            for calculation in get_entry(document, "calcs_reversed") or []
        ]
    )


def _count_cycles(calculation: Any) -> int | None:
    """Ionic steps by their SCF cycles, for documents whose frames were stored elsewhere."""
    cycles = get_entry(calculation, "output", "num_electronic_steps")
    return len(cycles) if cycles else None


def _count_electronic_steps(document: Any) -> int | None:
    counts: list[int | None] = []
    for calculation in get_entry(document, "calcs_reversed") or []:
        cycles = get_entry(calculation, "output", "num_electronic_steps")
        steps = get_entry(calculation, "output", "ionic_steps") or []
        counts.append(sum(cycles) if cycles else add_known([_count_scf(step) for step in steps]))
    return add_known(counts)


def _count_scf(step: Any) -> int | None:
    number = get_entry(step, "num_electronic_steps")
    steps = get_entry(step, "electronic_steps")
    return number if number is not None else (len(steps) if steps else None)


def _read_wall_time(document: Any) -> float | None:
    return get_entry(document, "run_stats", "overall", "elapsed_time") or None
