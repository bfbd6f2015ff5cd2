"""Reader of the task documents that atomate2's ASE and force-field jobs write."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pymatgen.core import Structure

from e3relax_flows.core.errors import EngineError
from e3relax_flows.core.functionals import add_pressure
from e3relax_flows.core.residues import GPA
from e3relax_flows.engines.base import get_entry, read_plain, read_structure
from e3relax_flows.engines.convergence import is_at_rest
from e3relax_flows.schemas.outcomes import PotentialInfo, RelaxationResult, add_known
from e3relax_flows.schemas.pairs import Freedom
from e3relax_flows.schemas.predictions import Free


def read_ase_documents(
    documents: list[Any], code: str, functional: str, is_dft: bool, conditions: Sequence[str] = ()
) -> RelaxationResult:
    """Turn the documents of one or more consecutive ASE relaxations into one result.

    Parameters
    ----------
    documents
        In order; None where a job left none.
    code, functional, is_dft, conditions
        Of the calculator; the pressure of the last document is added to the functional.

    Raises
    ------
    EngineError
        When the first document is missing or one has no structures or no finite energy.

    Examples
    --------
    In `Engine.read` of an engine whose jobs are atomate2's ASE jobs; here without a document:

    >>> from e3relax_flows import E3RelaxError, read_ase_documents
    >>> try:
    ...     read_ase_documents([None], "LJ", "LJ (not DFT)", is_dft=False)
    ... except E3RelaxError as error:
    ...     print(error)
    the LJ job left no document; read its error with jobflow or in its directory
    """
    if not documents or documents[0] is None:
        raise EngineError(f"the {code} job left no document; read its error with jobflow or in its directory")
    found = [document for document in documents if document is not None]
    last = found[-1]
    initial, relaxed = read_structure(found[0], "input", "mol_or_struct"), read_structure(last, "structure")
    if initial is None or relaxed is None:
        missing = "initial" if initial is None else "relaxed"
        raise EngineError(f"the {code} document of {get_entry(last, 'dir_name')} holds no {missing} structure")
    energy = get_entry(last, "output", "energy")
    if energy is None or not math.isfinite(energy):
        raise EngineError(f"the {code} document of {get_entry(last, 'dir_name')} has the energy {energy} eV")
    functional = add_pressure(functional, _read_pressure(last))
    return RelaxationResult(
        initial=initial,
        relaxed=relaxed,
        energy=energy,
        n_ionic_steps=sum(_count_evaluations(document) for document in found),
        n_electronic_steps=add_known([get_entry(document, "n_electronic_steps") for document in found]),
        converged=len(found) == len(documents) and _is_converged(last, relaxed),
        wall_time_s=sum(get_entry(document, "output", "elapsed_time") or 0.0 for document in found),
        dir_name=get_entry(last, "dir_name"),
        code=code,
        functional=functional,
        is_dft=is_dft,
        conditions=list(conditions),
        free=read_freedom(last),
        functionals=[functional] * len(found),
    )


def read_potential(document: Any) -> PotentialInfo | None:
    """The weights that relaxed; None if the document does not name them."""
    found = get_entry(document, "potential")
    return PotentialInfo.model_validate(found) if isinstance(found, Mapping) else found


def read_freedom(document: Any) -> Freedom | None:
    """The free degrees of freedom of the optimiser; None if the document does not hold them."""
    cell, shape = get_entry(document, "input", "relax_cell"), get_entry(document, "input", "relax_shape")
    if cell is None:
        return None
    asked = _get_filter(document)
    mask = asked.get("mask")
    holds_shape = bool(asked.get("hydrostatic_strain")) or (mask is not None and not np.all(mask))
    return Freedom(
        volume=bool(cell) and not asked.get("constant_volume"), shape=bool(cell or shape) and not holds_shape
    )


def _get_filter(document: Any) -> Mapping[str, Any]:
    """Keyword arguments of ASE's filter of the cell."""
    return get_entry(document, "input", "relax_kwargs", "filter_kwargs") or {}


def _read_pressure(document: Any) -> float:
    """Pressure in GPa under which the cell was relaxed."""
    cell = get_entry(document, "input", "relax_cell")
    return float(_get_filter(document).get("scalar_pressure") or 0.0) / GPA if cell else 0.0


def _is_converged(document: Any, relaxed: Structure) -> bool:
    """Whether the optimiser ended by itself, and the residual forces and stress agree."""
    forces, stress = (get_entry(document, "output", name) for name in ("forces", "stress"))
    pressure = 10 * _read_pressure(document)
    claimed = read_plain(document, "state") == "successful"
    return claimed and is_at_rest(relaxed, read_freedom(document), forces, stress, pressure=pressure)


def hold_cell(free: Free) -> dict[str, Any]:
    """Fields of an ASE relaxation maker that leave only `free` to change; relax_kwargs is to be merged."""
    held = {"shape": {"constant_volume": True}, "volume": {"hydrostatic_strain": True}}.get(free)
    return {"relax_cell": free != "sites", "relax_kwargs": {"filter_kwargs": held} if held else {}}


def _count_evaluations(document: Any) -> int:
    """Energy and force evaluations; atomate2 records the last geometry of a relaxation twice."""
    n_steps = get_entry(document, "output", "n_steps")
    if n_steps is None:
        raise EngineError(f"the document of {get_entry(document, 'dir_name')} does not hold the number of steps")
    return max(n_steps - 1, 1)
