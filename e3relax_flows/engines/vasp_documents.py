"""Reader of emmet's task documents of VASP runs: true start, end, steps, functional, and what was free."""

from __future__ import annotations

from typing import Any

from pymatgen.core import Structure

from e3relax_flows.core.errors import EngineError
from e3relax_flows.engines.base import get_entry, read_plain, read_structure
from e3relax_flows.schemas.outcomes import RelaxationResult
from e3relax_flows.schemas.pairs import Freedom

CODE = "VASP"
# emmet's task types of runs that move atoms; "Deformation" is a relaxation in a fixed cell
RELAXATIONS = ("Structure Optimization", "Deformation")
UNRECOGNIZED = ("Unrecognized", "None")  # those with an ISIF other than 2 and 3
MINIMIZERS = (1, 2, 3)  # values of IBRION
# emmet's run type where INCAR leaves the functional to the POTCAR, which is PBE in all of atomate2's sets
POTCAR_FUNCTIONAL = {"GGA": "PBE"}
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


def read_vasp_documents(documents: list[Any]) -> RelaxationResult:
    """Turn the documents of the runs of one flow into one result: true start, last relaxation, summed steps.

    The energy is that of the last document with the functional of the last relaxation, so that a static run
    with another functional does not lend its energy to a structure it did not relax.

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
    functional = name_functional(last)
    relaxed = read_structure(last, "structure") or read_structure(last, "output", "structure")
    if relaxed is None:
        raise EngineError(f"the VASP document of {get_entry(last, 'dir_name')} holds no relaxed structure")
    alike = [document for document in found if name_functional(document) == functional]
    names = [name_functional(document) for document in relaxations]
    return RelaxationResult(
        initial=read_start(relaxations[0]),
        relaxed=relaxed,
        energy=get_entry(alike[-1], "output", "energy"),
        n_ionic_steps=_add([_count_ionic_steps(document) for document in relaxations]),
        n_electronic_steps=_add([_count_electronic_steps(document) for document in relaxations]),
        converged=len(found) == len(documents) and read_plain(last, "state") == "successful",
        wall_time_s=_add([_read_wall_time(document) for document in relaxations]),
        dir_name=get_entry(last, "dir_name"),
        code=CODE,
        functional=functional,
        is_dft=True,
        free=read_freedom(last),
        parameters=read_parameters(alike[-1]),
        functionals=[name for name in names if name is not None],
    )


def is_relaxation(document: Any) -> bool:
    """Whether a task document is of a run that moves atoms or cell towards the minimum."""
    task_type = str(read_plain(document, "task_type"))
    if not task_type.endswith(UNRECOGNIZED):
        return task_type.endswith(RELAXATIONS)
    return read_setting(document, "IBRION") in MINIMIZERS and (read_setting(document, "NSW") or 0) > 1


def read_start(document: Any) -> Structure:
    """POSCAR as the job wrote it (.orig), else the first frame of the oldest calculation of the document."""
    calculations = get_entry(document, "calcs_reversed") or [None]
    candidates = (
        (document, ("orig_inputs", "structure")),
        (calculations[-1], ("input", "structure")),
        (document, ("input", "structure")),
    )
    for source, path in candidates:
        if (structure := read_structure(source, *path)) is not None:
            return structure
    raise EngineError(f"the VASP document of {get_entry(document, 'dir_name')} does not hold its initial structure")


def was_restarted(document: Any) -> bool:
    """Whether custodian mended the run, so that the frames in the document may begin after its true start."""
    return any(get_entry(job, "corrections") for job in get_entry(document, "custodian") or [])


def read_setting(document: Any, name: str) -> Any:
    """A setting of VASP, as it was used rather than as it was asked for; None where no input in the document has it."""
    paths = (("input", "parameters"), ("input", "incar"), ("orig_inputs", "incar"))
    values = (get_entry(document, *path, name) for path in paths)
    return next((value for value in values if value is not None), None)


def read_freedom(document: Any) -> Freedom | None:
    """What ISIF left free; None where no input in the document says it."""
    isif = read_setting(document, "ISIF")
    return None if isif is None else express_freedom(isif, read_setting(document, "LATTICE_CONSTRAINTS"))


def express_freedom(isif: int, lattice_constraints: Any = None) -> Freedom:
    """What VASP's ISIF leaves free; a lattice vector that LATTICE_CONSTRAINTS holds is a shape that is held."""
    free = ISIF_FREEDOM.get(int(isif), HELD_CELL)
    if isinstance(lattice_constraints, list | tuple) and not all(lattice_constraints):
        return free.model_copy(update={"shape": False})
    return free


def read_parameters(document: Any) -> dict[str, Any]:
    """What corrections of energies look at: Hubbard U (eV, by element), POTCARs by title, and the cutoff (eV)."""
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


def name_functional(document: Any) -> str | None:
    """Usual name of the functional, with +U where there is one."""
    run_type = read_plain(document, "run_type")
    if run_type is None:
        return None
    base, *rest = str(run_type).split("+")
    return "+".join([POTCAR_FUNCTIONAL.get(base, base), *rest])


def _count_ionic_steps(document: Any) -> int | None:
    return _add(
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
        counts.append(sum(cycles) if cycles else _add([_count_scf(step) for step in steps]))
    return _add(counts)


def _count_scf(step: Any) -> int | None:
    number = get_entry(step, "num_electronic_steps")
    steps = get_entry(step, "electronic_steps")
    return number if number is not None else (len(steps) if steps else None)


def _read_wall_time(document: Any) -> float | None:
    return get_entry(document, "run_stats", "overall", "elapsed_time") or None


def _add(values: list[Any]) -> Any:
    """Sum of what is known; None where nothing is."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None
