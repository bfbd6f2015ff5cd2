"""Energies of outcomes on the scale of the Materials Project, if they were computed with its settings."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from math import isfinite

from pymatgen.entries.compatibility import CompatibilityError, MaterialsProject2020Compatibility
from pymatgen.entries.computed_entries import ComputedEntry, ComputedStructureEntry
from pymatgen.io.vasp.sets import MPRelaxSet

from e3relax_flows.schemas.outcomes import OutcomeDoc, OutcomeState

RUN_TYPES = {"PBE": "GGA", "PBE+U": "GGA+U"}  # names in the corrections
MP_PREFIX = "mp-"  # of ids of the Materials Project


class Correction(StrEnum):
    """mp2020: MaterialsProject2020Compatibility; none: energies are compared as they are."""

    MP2020 = "mp2020"
    NONE = "none"


@dataclass(frozen=True)
class Energy:
    """An energy with its correction; `is_comparable` is true if it is on the requested scale."""

    entry: ComputedEntry
    correction: float  # eV per cell
    is_comparable: bool
    message: str | None = None  # why not


def make_entry(outcome: OutcomeDoc) -> ComputedStructureEntry | None:
    """Entry of a converged outcome, uncorrected; None without a converged structure and its energy."""
    result = outcome.result
    if outcome.state != OutcomeState.SUCCESSFUL or result is None or result.energy is None:
        return None
    if not isfinite(result.energy):
        return None
    parameters = dict(result.parameters)
    parameters["run_type"] = RUN_TYPES.get(str(result.functional), result.functional)
    parameters["software"] = result.code.lower()
    parameters["conditions"] = result.conditions
    relaxed = result.relaxed.copy().remove_oxidation_states()
    return ComputedStructureEntry(
        relaxed,
        result.energy,
        parameters=parameters,
        data={
            "structure_id": outcome.structure_id,
            "id": outcome.id,
            "engine": outcome.engine,
            "is_dft": result.is_dft,
            "functional": result.functional,
        },
        entry_id=outcome.outcome_id,
    )


def correct_energy(entry: ComputedEntry, correction: Correction) -> Energy:
    """The entry on the requested scale; unchanged and marked if it is not comparable."""
    if correction == Correction.NONE:
        return Energy(entry, entry.correction, is_comparable=True)
    reason = _find_difference(entry)
    if reason is None:
        corrected = copy.deepcopy(entry)
        try:
            MaterialsProject2020Compatibility().process_entry(corrected, on_error="raise")
        except (CompatibilityError, ValueError, KeyError) as error:
            reason = str(error)
        else:
            return Energy(corrected, corrected.correction, is_comparable=True)
    return Energy(entry, 0.0, is_comparable=False, message=f"not comparable with the Materials Project: {reason}")


def prepare_references(
    entries: Iterable[ComputedEntry], correction: Correction
) -> tuple[list[ComputedEntry], list[tuple[str, str]]]:
    """Entries on the requested scale, and name and reason of those left out.

    Those that carry corrections, or an id of the Materials Project, are on its scale already and stay as they are; the
    others are corrected.
    """
    kept: list[ComputedEntry] = []
    left_out: list[tuple[str, str]] = []
    for entry in entries:
        is_done = bool(entry.energy_adjustments) or str(entry.entry_id).startswith(MP_PREFIX)
        if correction == Correction.NONE or is_done:
            kept.append(entry)
            continue
        if entry.parameters.get("run_type") is None and len(entry.composition.elements) == 1:
            kept.append(entry)  # the corrections of an element are none
            continue
        energy = correct_energy(entry, correction)
        if energy.is_comparable:
            kept.append(energy.entry)
        else:
            name = f"{entry.composition.reduced_formula} ({entry.entry_id})"
            left_out.append((name, str(energy.message)))
    return kept, left_out


def _find_difference(entry: ComputedEntry) -> str | None:
    """Differences from the settings of MPRelaxSet, besides those that pymatgen checks (U, POTCARs, functional)."""
    parameters = entry.parameters
    if parameters.get("software", "vasp") != "vasp":
        return f"computed with {parameters['software']}, not VASP"
    if parameters.get("conditions"):
        return f"computed with {'; '.join(parameters['conditions'])}"
    if parameters.get("run_type") not in RUN_TYPES.values():
        return f"the functional is {parameters.get('run_type')}, not PBE or PBE+U"
    if not parameters.get("potcar_spec") and not parameters.get("potcar_symbols"):
        return "its POTCARs are not recorded"
    expected = MPRelaxSet.CONFIG["INCAR"]["ENCUT"]
    cutoff = parameters.get("encut", expected if "encut" not in parameters else None)
    if cutoff != expected:
        return f"the plane-wave cutoff is {cutoff} eV, not {expected}"
    return None
