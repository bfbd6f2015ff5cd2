"""Reader of atomate2's task documents of CP2K, ABINIT, FHI-aims and JDFTx: true start, end, steps, what was free."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pymatgen.core import Structure

from e3relax_flows.core.errors import EngineError, StartUnknownError
from e3relax_flows.core.functionals import spell_functional
from e3relax_flows.engines.base import get_entry, read_plain, read_structure
from e3relax_flows.engines.dft_functionals import identify_functional
from e3relax_flows.schemas.outcomes import RelaxationResult, add_known
from e3relax_flows.schemas.pairs import Freedom

FULL, HELD_CELL = Freedom(), Freedom(volume=False, shape=False)
KIND = re.compile(r"^(gga|mgga|hyb|lda)-")  # JDFTx's prefix
LOCAL = ("lda", "pw", "pz", "vwn", "teter", "pw-prec", "pw-lda", "pz-lda", "vwn-lda", "pade", "perdew-wang-92")
# what ABINIT's optcell leaves free beside the atoms
OPTCELL = {
    1: Freedom(shape=False),
    2: FULL,
    3: Freedom(volume=False),
    **dict.fromkeys(range(4, 10), Freedom(shape=False)),
}
SUCCESS = "successful"


@dataclass(frozen=True)
class Form:
    """Form of a code's documents; each function takes one document.

    Attributes
    ----------
    code
        Its name.
    start, end, energy
        Paths of the initial and relaxed structure and of the energy in eV.
    marks
        Paths, one of which is in every document of the code and not in those of others.
    """

    code: str
    marks: tuple[tuple[str, ...], ...]
    relaxes: Callable[[Any], bool]
    name_functional: Callable[[Any], str | None]
    count_ionic: Callable[[Any], int | None]
    count_electronic: Callable[[Any], int | None]
    read_freedom: Callable[[Any], Freedom | None]
    has_converged: Callable[[Any], bool]
    read_wall_time: Callable[[Any], float | None]
    start: tuple[tuple[str, ...], ...] = (("input", "structure"),)
    end: tuple[tuple[str, ...], ...] = (("output", "structure"), ("structure",))
    energy: tuple[str, ...] = ("output", "energy")

    def identify_functional(self, document: Any) -> tuple[str | None, list[str]]:
        """Functional with U and dispersion, and conditions that it does not name."""
        return identify_functional(self.code, document, self.name_functional(document))


def find_form(document: Any) -> Form | None:
    """Form of a document, recognised by its marks; None if no form fits."""
    for form in FORMS.values():
        if any(get_entry(document, *path) is not None for path in form.marks):
            return form
    return None


def read_dft_documents(documents: list[Any], code: str) -> RelaxationResult:
    """Turn the documents of the runs of one flow into one result: true start, last relaxation, summed steps.

    The energy is that of the last document with the functional of the last relaxation.

    Parameters
    ----------
    documents
        In order: pydantic objects or dictionaries, None where a job left no document.
    code
        A key of FORMS.

    Raises
    ------
    StartUnknownError
        When the first document is one of a restart.
    EngineError
        When no relaxation can be read from the documents.
    """
    form = FORMS[code]
    found = [document for document in documents if document is not None]
    relaxations = [document for document in found if form.relaxes(document)]
    if not relaxations:
        raise EngineError(
            f"none of {len(documents)} documents of {code} is a relaxation ({len(found)} are there); "
            "read the error of the first job of the flow"
        )
    if documents[0] is None:
        raise EngineError(f"the document of the first {code} run is missing, so the start of the relaxation is unknown")
    last = relaxations[-1]
    level = form.identify_functional(last)
    same = [document for document in found if form.identify_functional(document) == level]
    energy = get_entry(same[-1], *form.energy)
    where = get_entry(last, "dir_name")
    if energy is None or not math.isfinite(energy):
        raise EngineError(f"the {code} document of {where} has the energy {energy} eV")
    names = [form.identify_functional(document)[0] for document in relaxations]
    return RelaxationResult(
        initial=_read_first(relaxations[0], form.start, code, "initial"),
        relaxed=_read_first(last, form.end, code, "relaxed"),
        energy=float(energy),
        n_ionic_steps=add_known([form.count_ionic(document) for document in relaxations]),
        n_electronic_steps=add_known([form.count_electronic(document) for document in relaxations]),
        converged=len(found) == len(documents) and form.has_converged(last),
        wall_time_s=add_known([form.read_wall_time(document) for document in relaxations]),
        dir_name=str(where) if where is not None else None,
        code=code,
        functional=level[0],
        conditions=level[1],
        is_dft=True,
        free=form.read_freedom(last),
        functionals=[name for name in names if name is not None],
    )


def _spell(name: Any) -> str | None:
    """Usual spelling of a functional as its code writes it: gga-PBE of JDFTx, pw-lda of FHI-aims, PADE of CP2K."""
    if name is None:
        return None
    plain = KIND.sub("", str(name))
    return "LDA" if plain.lower() in LOCAL else spell_functional(plain)


def _read_first(document: Any, paths: tuple[tuple[str, ...], ...], code: str, what: str) -> Any:
    for path in paths:
        if (structure := read_structure(document, *path)) is not None:
            return Structure.from_sites(list(structure), charge=structure._charge)  # abipy has a class of its own
    raise EngineError(f"the {code} document of {get_entry(document, 'dir_name')} holds no {what} structure")


def _list_runs(document: Any) -> list[Any]:
    """Runs of a task document, the oldest first."""
    return list(reversed(get_entry(document, "calcs_reversed") or []))


def _count(values: Any) -> int | None:
    """Length of a list, or of a pymatgen trajectory as object or dictionary."""
    if isinstance(values, Mapping):
        values = values.get("coords")
    return len(values) if values is not None and len(values) > 0 else None


def _know_nothing(_document: Any) -> None:
    """A value that a code's documents do not hold."""


def _has_succeeded(document: Any) -> bool:
    return bool(read_plain(document, "state") == SUCCESS)


# CP2K


def _get_cp2k_section(document: Any, *path: str) -> Any:
    """Section or keyword value of the input of the last run, from pymatgen's form of it; names in any case."""
    section = get_entry(_list_runs(document)[-1], "input", "cp2k_input") if _list_runs(document) else None
    for name in path:
        inner = {**(get_entry(section, "subsections") or {}), **(get_entry(section, "keywords") or {})}
        section = next((value for key, value in inner.items() if str(key).upper() == name), None)
    return section


def _name_cp2k_run(document: Any) -> str:
    runs = _list_runs(document)
    found = get_entry(runs[-1], "input", "cp2k_global") if runs else None
    return str(next((value for key, value in (found or {}).items() if str(key).lower() == "run_type"), "")).upper()


def _count_cp2k_ionic(document: Any) -> int | None:
    """As our job counted them; atomate2's document has one geometry per step, and not the start."""
    known = get_entry(document, "n_ionic_steps")
    moves = add_known([_count(get_entry(run, "output", "ionic_steps")) for run in _list_runs(document)])
    return known if known is not None or moves is None else moves + 1


def _has_cp2k_converged(document: Any) -> bool:
    """CP2K also ends normally at its last allowed step; without our job's record the steps are counted."""
    seen = get_entry(document, "has_relaxed")
    if seen is not None:
        return _has_succeeded(document) and bool(seen)
    limit = get_entry(_get_cp2k_section(document, "MOTION", _name_cp2k_run(document), "MAX_ITER"), "values")
    last = _count(get_entry(_list_runs(document)[-1], "output", "ionic_steps"))
    return _has_succeeded(document) and not (limit and last is not None and last >= int(limit[0]))


def _read_cp2k_freedom(document: Any) -> Freedom:
    if _name_cp2k_run(document) != "CELL_OPT":
        return HELD_CELL
    held = {
        name
        for name in ("KEEP_ANGLES", "KEEP_VOLUME")
        if _is_set(_get_cp2k_section(document, "MOTION", "CELL_OPT", name))
    }
    return Freedom(volume="KEEP_VOLUME" not in held, shape="KEEP_ANGLES" not in held)


def _is_set(keyword: Any) -> bool:
    values = get_entry(keyword, "values")
    return keyword is not None and str((values or [True])[0]).strip(".").upper() in ("TRUE", "T")


# ABINIT


def _get_abinit_setting(document: Any, name: str) -> Any:
    """A variable of ABINIT's input, from abipy's object or its dictionary."""
    found = get_entry(document, "input", "abinit_input")
    if isinstance(found, Mapping) and "abi_args" in found:
        found = dict(found["abi_args"])
    return found.get(name) if isinstance(found, Mapping) else None


def _relaxes_abinit(document: Any) -> bool:
    if not _get_abinit_setting(document, "ionmov") and not _get_abinit_setting(document, "optcell"):
        return False
    if any(_get_abinit_setting(document, name) for name in ("irdwfk", "irdden", "getwfk_filepath", "getden_filepath")):
        raise StartUnknownError(
            f"the ABINIT run of {get_entry(document, 'dir_name')} was restarted by atomate2, and where it began is not "
            "in its document; give ABINIT more steps (ntime) or set ATOMATE2_ABINIT_MAX_RESTARTS=0"
        )
    return True


def _read_abinit_freedom(document: Any) -> Freedom:
    return OPTCELL.get(int(_get_abinit_setting(document, "optcell") or 0), HELD_CELL)


# FHI-aims


def _get_aims_parameter(document: Any, name: str) -> Any:
    return get_entry(document, "input", "parameters", name)


def _read_aims_freedom(document: Any) -> Freedom:
    word = str(_get_aims_parameter(document, "relax_unit_cell") or "none").lower()
    return {"full": FULL, "fixed_angles": Freedom(shape=False)}.get(word, HELD_CELL)


# JDFTx


def _get_jdftx_parameter(document: Any, name: str) -> Any:
    """Entry of JDFTx's output, or of its last run where they are listed."""
    found = get_entry(document, "calc_outputs", "parameters")
    value = get_entry(found, name)
    slices = get_entry(found, "slices")
    return value if value is not None or not slices else get_entry(slices[-1], name)


FORMS: dict[str, Form] = {
    "CP2K": Form(
        code="CP2K",
        marks=(("cp2k_objects",), ("input", "atomic_kind_info")),
        relaxes=lambda document: _name_cp2k_run(document) in ("GEO_OPT", "CELL_OPT"),
        name_functional=lambda document: _spell(read_plain(document, "input", "xc")),
        count_ionic=_count_cp2k_ionic,
        count_electronic=lambda document: get_entry(document, "n_electronic_steps"),
        read_freedom=_read_cp2k_freedom,
        has_converged=_has_cp2k_converged,
        read_wall_time=lambda document: get_entry(document, "run_stats", "overall", "total_time"),
        start=(("input", "structure"),),
    ),
    "ABINIT": Form(
        code="ABINIT",
        marks=(("input", "abinit_input"),),
        relaxes=_relaxes_abinit,
        name_functional=lambda document: _spell(get_entry(document, "input", "xc")),
        count_ionic=lambda document: (
            get_entry(document, "n_ionic_steps") or _count(get_entry(document, "output", "trajectory"))
        ),
        count_electronic=lambda document: get_entry(document, "n_electronic_steps"),
        read_freedom=_read_abinit_freedom,
        has_converged=_has_succeeded,
        read_wall_time=lambda document: get_entry(document, "wall_time_s"),
    ),
    "FHI-aims": Form(
        code="FHI-aims",
        marks=(("aims_objects",), ("input", "parameters", "xc")),
        relaxes=lambda document: str(_get_aims_parameter(document, "relax_geometry") or "none").lower() != "none",
        name_functional=lambda document: _spell(get_entry(document, "input", "xc")),
        count_ionic=lambda document: _count(get_entry(document, "output", "trajectory")),
        count_electronic=_know_nothing,
        read_freedom=_read_aims_freedom,
        has_converged=_has_succeeded,
        read_wall_time=_know_nothing,
    ),
    "JDFTx": Form(
        code="JDFTx",
        marks=(("calc_inputs", "structure"),),
        relaxes=lambda document: (
            str(read_plain(document, "task_type")) in ("Lattice Optimization", "Ionic Optimization")
        ),
        name_functional=lambda document: _spell(_get_jdftx_parameter(document, "xc_func")),
        count_ionic=lambda document: _count(get_entry(document, "calc_outputs", "trajectory")),
        count_electronic=_know_nothing,
        read_freedom=lambda document: (
            FULL if str(read_plain(document, "task_type")) == "Lattice Optimization" else HELD_CELL
        ),
        has_converged=lambda document: bool(_get_jdftx_parameter(document, "converged")),
        read_wall_time=lambda document: _get_jdftx_parameter(document, "t_s"),
        start=(("calc_inputs", "structure"),),
        end=(("calc_outputs", "structure"),),
        energy=("calc_outputs", "energy"),
    ),
}
